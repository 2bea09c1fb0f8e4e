/**
 * @file WGSL for the tiles that a workgroup visits: `classify`, and the loop over live tiles.
 * TWIN: src/mask/bounds/classify.ts
 *
 * The mask is one buffer of vec4i, made by the bounds map pass. First come two vec4i for each mask head and block of
 * MAP_BLOCK keys, with (min, max) of (LTS, LTE) and of (UTS, UTE). Then comes (LTS, LTE, UTS, UTE) for each mask head
 * and key column. Last comes the schedule (schedule.ts), if the passes use one.
 */
import {TILES_PER_ROUND, type ShaderPlan} from '../../plan/vector_plan.js';

/**
 * Declares `classify(maskHead, keyBlock, rowsBegin, rowsEnd)`: the kind of the tile of query rows rowsBegin <= r <
 * rowsEnd.
 */
export function classifyFunction(p: Pick<ShaderPlan, 'causal' | 'intervals'>): string {
  const triangle = p.causal
    ? `  reach = max(reach, c0 - u.causalOffset);
  full = rowsBegin >= c1 - 1 - u.causalOffset;`
    : '';
  const intervals = p.intervals
    ? `  let first = keyBlock * BLOCK_K / MAP_BLOCK;
  var lower = mapped(maskHead, first, 0u);
  var upper = mapped(maskHead, first, 1u);
  for (var block = first + 1u; block < min(first + MAP_SPAN, u.mapBlocks); block++) {
    lower = join(lower, mapped(maskHead, block, 0u));
    upper = join(upper, mapped(maskHead, block, 1u));
  }
  for (var again = 0u; again < 2u; again++) {
    reach = select(reach, max(reach, lower.z), lower.y <= reach);
    reach = select(reach, max(reach, upper.z), upper.y <= reach);
  }
  full = full && misses(lower, rowsBegin, rowsEnd) && misses(upper, rowsBegin, rowsEnd);`
    : '';
  const map = `
// (start min, start max, end min, end max) of the lower (0) or upper (1) interval over a block of the bounds map.
fn mapped(maskHead: u32, block: u32, interval: u32) -> vec4i {
  return mask[2u * (maskHead * u.mapBlocks + block) + interval];
}

fn join(a: vec4i, b: vec4i) -> vec4i {
  return vec4i(min(a.x, b.x), max(a.y, b.y), min(a.z, b.z), max(a.w, b.w));
}

// Whether no column's interval meets the rows.
fn misses(bounds: vec4i, rowsBegin: i32, rowsEnd: i32) -> bool {
  return rowsEnd <= bounds.x || rowsBegin >= bounds.w || bounds.x >= bounds.w;
}
`;
  return `${p.intervals ? map : ''}
// Rows below reach are masked in every column of the block. An interval whose largest start is not above reach extends
// it to the smallest end.
fn classify(maskHead: u32, keyBlock: u32, rowsBegin: i32, rowsEnd: i32) -> u32 {
  let c0 = i32(keyBlock * BLOCK_K);
  let c1 = min(c0 + i32(BLOCK_K), i32(u.Sk));
  var reach = rowsBegin;
  var full = true;
${triangle}
${intervals}
  if (reach >= rowsEnd) { return EMPTY; }
  // Columns past Sk hold zeros, not scores: the last ragged block takes the masked path.
  full = full && c0 + i32(BLOCK_K) <= i32(u.Sk);
  return select(PARTIAL, FULL, full);
}
`;
}

export const TILE_BITS = `
var<workgroup> tileBits: array<atomic<u32>, 4>;
var<workgroup> tileWords: vec4u;
`;

/**
 * Classifies the tiles from `round` on, one per thread. The bits of tileWords are those of live tiles, then those of
 * partial tiles.
 */
const classifyRound = (kindOf: string): string => `    if (lid < 4u) { atomicStore(&tileBits[lid], 0u); }
    workgroupBarrier();
    for (var t = lid; t < ${TILES_PER_ROUND}u; t += THREADS) {
      let candidate = round + t;
      if (candidate < lastTile) {
        let kind = ${kindOf};
        if (kind != EMPTY) { atomicOr(&tileBits[t >> 5u], 1u << (t & 31u)); }
        if (kind == PARTIAL) { atomicOr(&tileBits[2u + (t >> 5u)], 1u << (t & 31u)); }
      }
    }
    workgroupBarrier();
    if (lid == 0u) {
      tileWords = vec4u(atomicLoad(&tileBits[0]), atomicLoad(&tileBits[1]), atomicLoad(&tileBits[2]), atomicLoad(&tileBits[3]));
    }`;

/**
 * Loops over the live tiles first <= tile < last in order. Each round classifies `TILES_PER_ROUND` tiles, one per
 * thread, into bits that the whole workgroup then walks in step: `tile` and `partial` are uniform, so that the body may
 * hold barriers.
 *
 * @param kindOf WGSL expression for the kind of `candidate`.
 * @param body WGSL that handles `tile`.
 */
export function forEachLiveTile(kindOf: string, body: string): string {
  return `
  for (var round = firstTile; round < lastTile; round += ${TILES_PER_ROUND}u) {
${classifyRound(kindOf)}
    let words = workgroupUniformLoad(&tileWords);
    for (var word = 0u; word < 2u; word++) {
      var live = select(words.x, words.y, word == 1u);
      let partials = select(words.z, words.w, word == 1u);
      while (live != 0u) {
        let bit = firstTrailingBit(live);
        live = live & (live - 1u);
        let tile = round + 32u * word + bit;
        let partial = ((partials >> bit) & 1u) == 1u;
${body}
      }
    }
  }`;
}

/** WGSL for the steps of a walk that knows the tile after the current one. */
export interface AheadSteps {
  /** Starts to fetch the tile `next`. */
  fetch: string;
  /** Stores the first fetched tile where `work` reads it. A barrier follows. */
  start: string;
  /** Handles `tile` while `next` is fetched, if there are `more` tiles. It ends with a barrier. */
  work: string;
}

/**
 * Like `forEachLiveTile`, but the tile after the current one is known, so that it can be fetched while the current one
 * is handled.
 */
export function forEachLiveTileAhead(kindOf: string, {fetch, start, work}: AheadSteps): string {
  const advance = `
  while ((words.x | words.y) == 0u && round < lastTile) {
${classifyRound(kindOf)}
    words = workgroupUniformLoad(&tileWords);
    round += ${TILES_PER_ROUND}u;
  }
  more = (words.x | words.y) != 0u;
  if (words.x != 0u) {
    let bit = firstTrailingBit(words.x);
    next = round - ${TILES_PER_ROUND}u + bit;
    nextPartial = ((words.z >> bit) & 1u) == 1u;
    words.x &= words.x - 1u;
  } else {
    let bit = firstTrailingBit(words.y);
    next = round - ${TILES_PER_ROUND / 2}u + bit;
    nextPartial = ((words.w >> bit) & 1u) == 1u;
    words.y &= words.y - 1u;
  }
  if (more) {
${fetch}
  }`;
  return `
  var round = firstTile;
  var words = vec4u();
  var next = 0u;
  var nextPartial = false;
  var more = false;
${advance}
  if (more) {
${start}
  }
  workgroupBarrier();
  while (more) {
    let tile = next;
    let partial = nextPartial;
${advance}
${work}
  }`;
}
