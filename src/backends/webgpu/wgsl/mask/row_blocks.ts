/**
 * @file WGSL for the row block that a workgroup keeps and the tiles that it visits.
 *
 * Workgroups start in index order. The longest should go first, or the GPU idles while the last one finishes. With a
 * *schedule* (schedule.ts) the row blocks of a mask head start by their number of live tiles, most first, and walk from
 * the first live tile to the last. Without a schedule only the causal triangle is known. Under it the last query blocks
 * and the first key blocks are the longest.
 */
import {HEADS_IN_TURN} from '../../../../call/constants.js';
import type {ShaderPlan} from '../../plan/vector_plan.js';

/** The fields of a plan, on vectors or on matrices, that row blocks depend on. */
export type RowBlocks = Pick<ShaderPlan, 'pass' | 'blockQ' | 'blockK' | 'causal' | 'fewQueries' | 'scheduled'>;

/**
 * Declares the numbers of blocks of a pass, the tiles of a row block that the causal triangle does not mask, and the
 * place of the schedule in the mask buffer.
 */
export function blockFunctions({ofKeys, causal}: {ofKeys: boolean; causal: boolean}): string {
  const all = `vec2u(0u, ${ofKeys ? 'queryBlocks' : 'keyBlocks'}())`;
  return `
fn queryBlocks() -> u32 { return (u.Sq + BLOCK_Q - 1u) / BLOCK_Q; }
fn keyBlocks() -> u32 { return (u.Sk + BLOCK_K - 1u) / BLOCK_K; }
fn rowBlocks() -> u32 { return ${ofKeys ? 'keyBlocks' : 'queryBlocks'}(); }

// Tiles x <= tile < y of a row block: those that the causal triangle does not mask.
fn triangleTiles(rowBlock: u32) -> vec2u {
${causal ? (ofKeys ? TRIANGLE_OF_KEYS : TRIANGLE_OF_QUERIES) : `  return ${all};`}
}

// Where the schedule of a mask head begins: after the bounds map and the columns of all mask heads.
fn scheduleAt(maskHead: u32) -> u32 {
  return 2u * u.maskHeads * u.mapBlocks + u.maskHeads * u.Sk + maskHead * rowBlocks();
}
`;
}

const TRIANGLE_OF_QUERIES = `  let rowsEnd = min(i32((rowBlock + 1u) * BLOCK_Q), i32(u.Sq));
  let end = (rowsEnd + u.causalOffset + i32(BLOCK_K) - 1) / i32(BLOCK_K);
  return vec2u(0u, u32(clamp(end, 0, i32(keyBlocks()))));`;

const TRIANGLE_OF_KEYS = `  let rowsBegin = max(i32(rowBlock * BLOCK_K) - u.causalOffset, 0);
  return vec2u(u32(rowsBegin) / BLOCK_Q, queryBlocks());`;

/** Declares the functions that `rowBlockOfWorkgroup` and `memberOfGroup` call, including `blockFunctions`. */
export function rowBlockFunctions(p: RowBlocks): string {
  return (
    blockFunctions({ofKeys: p.pass === 'dkdv', causal: p.causal}) +
    MASK_HEAD +
    (p.scheduled ? SCHEDULED : unscheduled(p))
  );
}

/** Declares `maskHeadOf`. TWIN: src/call/problem.ts */
export const MASK_HEAD = `
// Mask heads are counted over the batches of the mask, also in a slice of the heads.
fn maskHeadOf(b: u32, h: u32) -> u32 {
  return u.firstMaskHead + b * u.maskBatchStride + h / u.maskGroup;
}
`;

const SCHEDULED = `
// (head, rank) of a workgroup: HEADS_IN_TURN heads at a time, which take turns rank by rank.
fn placeOf(workgroup: u32, heads: u32) -> vec2u {
  let first = workgroup / (rowBlocks() * ${HEADS_IN_TURN}u) * ${HEADS_IN_TURN}u;
  let inTurn = min(${HEADS_IN_TURN}u, heads - first);
  let rest = workgroup - first * rowBlocks();
  return vec2u(first + rest % inTurn, rest / inTurn);
}

fn rowBlockAt(maskHead: u32, rank: u32) -> u32 {
  return u32(mask[scheduleAt(maskHead) + rank].w);
}

// The tiles x <= tile < y that a row block visits.
fn tilesOf(maskHead: u32, rowBlock: u32) -> vec2u {
  return vec2u(mask[scheduleAt(maskHead) + rowBlock].xy);
}
`;

const unscheduled = (p: RowBlocks): string => `
// (head, rank) of a workgroup: head after head.
fn placeOf(workgroup: u32, heads: u32) -> vec2u {
  return vec2u(workgroup / rowBlocks(), workgroup % rowBlocks());
}

// Longest first, under a causal mask.
fn rowBlockAt(maskHead: u32, rank: u32) -> u32 {
  return ${p.pass === 'dkdv' ? 'rank' : 'rowBlocks() - 1u - rank'};
}

// The tiles x <= tile < y that a row block visits.
fn tilesOf(maskHead: u32, rowBlock: u32) -> vec2u {
  return triangleTiles(rowBlock);
}
`;

/**
 * WGSL that declares what the workgroup of `item` keeps. In forward and dq this is a query block of a head: `b`, `h`,
 * `bh`, `maskHead`, `qFirst`, the rows `rowsBegin <= r < rowsEnd`, and the tiles `firstTile <= tile < lastTile` to
 * visit. In dkdv it is a key block of a key head: `b`, `hkv`, `bhkv`, `keyBlock`, `kFirst`; `memberOfGroup` declares
 * the rest. All values are uniform over the workgroup.
 */
export function rowBlockOfWorkgroup(p: Pick<RowBlocks, 'pass' | 'fewQueries'>): string {
  if (p.fewQueries) return SPLIT;
  if (p.pass !== 'dkdv') {
    return `
  let place = placeOf(item, u.B * u.H);
  let bh = place.x;
  let b = bh / u.H;
  let h = bh % u.H;
  let maskHead = maskHeadOf(b, h);
  let queryBlock = rowBlockAt(maskHead, place.y);
  let qFirst = queryBlock * BLOCK_Q;
  let rowsBegin = i32(qFirst);
  let rowsEnd = min(rowsBegin + i32(BLOCK_Q), i32(u.Sq));
  let tiles = tilesOf(maskHead, queryBlock);
  let firstTile = tiles.x;
  let lastTile = tiles.y;`;
  }
  return `
  let place = placeOf(item, u.B * u.Hkv);
  let bhkv = place.x;
  let b = bhkv / u.Hkv;
  let hkv = bhkv % u.Hkv;
  // If the query heads of a group have different mask heads, the first of these holds the order for all.
  let keyBlock = rowBlockAt(maskHeadOf(b, hkv * u.groupSize), place.y);
  let kFirst = keyBlock * BLOCK_K;`;
}

/** The same for few queries (query_rows.ts): all rows of `foldedHeads` heads from `bh` on, and the tiles of `split`. */
const SPLIT = `
  let split = item % u.splits;
  let bh = item / u.splits * u.foldedHeads;
  let b = bh / u.H;
  let h = bh % u.H;
  let maskHead = maskHeadOf(b, h);
  let qFirst = 0u;
  let rowsBegin = 0;
  let rowsEnd = i32(u.Sq);
  let firstTile = 0u;
  // The triangle does not end before the last key: these are all rows, and the last one sees all keys.
  let lastTile = (keyBlocks() + u.splits - 1u - split) / u.splits;`;

/**
 * WGSL that declares `h`, `bh`, `maskHead`, `firstTile` and `lastTile` of query head `member` of the group of a key
 * head.
 */
export function memberOfGroup(): string {
  return `
    let h = hkv * u.groupSize + member;
    let bh = b * u.H + h;
    let maskHead = maskHeadOf(b, h);
    let tiles = tilesOf(maskHead, keyBlock);
    let firstTile = tiles.x;
    let lastTile = tiles.y;`;
}
