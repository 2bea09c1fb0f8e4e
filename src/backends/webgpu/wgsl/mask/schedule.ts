/**
 * @file The passes that make the schedule of a mask: which tiles its row blocks visit, and in which order the blocks
 * start.
 *
 * The schedule lies in the mask buffer behind tile map and columns (tiles.ts). Of mask head m, its vec4i i holds
 *
 * | x                         | y                          | z                           | w                                |
 * |---------------------------|----------------------------|-----------------------------|----------------------------------|
 * | first live tile of block i | one past its last live tile | its number of live tiles | the block of rank i, most live tiles first |
 *
 * x and y are 0 where no tile is live. That is linear in the length. Lists of all live tiles would not be: their number
 * is quadratic in it. What is empty between x and y costs a pass one bit, as without a schedule.
 */
import {declareConstants, mapConstants} from '../header.js';
import type {Shader} from '../shader.js';
import {blockFunctions, type RowBlocks} from './row_blocks.js';
import {classifyFunction} from './tiles.js';

/**
 * What a schedule depends on besides the mask. The passes over queries, forward and dq, share theirs if their tiles are
 * alike.
 */
export interface ScheduleVariant {
  /** Whether row blocks are blocks of keys, as in dkdv. */
  ofKeys: boolean;
  blockQ: number;
  blockK: number;
  causal: boolean;
}

export const scheduleOf = ({pass, blockQ, blockK, causal}: RowBlocks): ScheduleVariant => ({
  ofKeys: pass === 'dkdv',
  blockQ,
  blockK,
  causal,
});

const FIELDS = {ofKeys: true, blockQ: true, blockK: true, causal: true} as const;
const THREADS = 64;

/**
 * Finds x, y and z. One workgroup a row block of a mask head: its threads classify the tiles of the block in turn. The
 * results do not depend on the order in which they add theirs.
 */
export const scheduleRanges: Shader<ScheduleVariant> = {
  name: 'schedule_ranges',
  fields: FIELDS,
  bindings: () => [{name: 'mask', type: 'vec4i', access: 'read_write'}],
  threads: () => THREADS,
  item: 'workgroup',
  declarations: (v) => `${blockConstants(v)}${blockFunctions(v)}${classifyFunction({causal: v.causal, intervals: true})}
var<workgroup> firstLive: atomic<u32>;
var<workgroup> endLive: atomic<u32>;
var<workgroup> allLive: atomic<u32>;
`,
  body: rangesOfBlock,
};

function rangesOfBlock({ofKeys}: ScheduleVariant): string {
  const [queryBlock, keyBlock] = ofKeys ? ['tile', 'rowBlock'] : ['rowBlock', 'tile'];
  return `
let maskHead = item / rowBlocks();
let rowBlock = item % rowBlocks();
let tiles = triangleTiles(rowBlock);
if (lid == 0u) { atomicStore(&firstLive, tiles.y); }
workgroupBarrier();
var first = tiles.y;
var end = 0u;
var live = 0u;
for (var tile = tiles.x + lid; tile < tiles.y; tile += ${THREADS}u) {
  let rowsBegin = i32(${queryBlock} * BLOCK_Q);
  let rowsEnd = min(rowsBegin + i32(BLOCK_Q), i32(u.Sq));
  if (classify(maskHead, ${keyBlock}, rowsBegin, rowsEnd) == EMPTY) { continue; }
  first = min(first, tile);
  end = tile + 1u;
  live++;
}
atomicMin(&firstLive, first);
atomicMax(&endLive, end);
atomicAdd(&allLive, live);
workgroupBarrier();
if (lid == 0u) {
  let count = atomicLoad(&allLive);
  let firstOrZero = select(0u, atomicLoad(&firstLive), count > 0u);
  mask[scheduleAt(maskHead) + rowBlock] = vec4i(vec4u(firstOrZero, atomicLoad(&endLive), count, 0u));
}`;
}

/**
 * Finds w. One thread per row block counts the blocks that start before its own: those with more live tiles, or as many
 * and a smaller number. With equal query and key lengths these are fewer comparisons than `scheduleRanges` classifies
 * tiles, and they need neither workgroup memory nor barriers.
 *
 * dkdv visits a key block for all query heads of a key head. Where these have mask heads of their own, the sum of their
 * live tiles counts, and the order is stored with the first of them.
 */
export const scheduleOrder: Shader<ScheduleVariant> = {
  name: 'schedule_order',
  fields: FIELDS,
  // The numbers of the mask buffer one by one: threads write w of vec4is whose z others read.
  bindings: () => [{name: 'mask', type: 'i32', access: 'read_write'}],
  threads: () => THREADS,
  item: 'thread',
  declarations: (v) => `${blockConstants(v)}${blockFunctions(v)}
fn liveTiles(firstHead: u32, heads: u32, rowBlock: u32) -> i32 {
  var live = 0;
  for (var head = firstHead; head < firstHead + heads; head++) {
    live += mask[4u * (scheduleAt(head) + rowBlock) + 2u];
  }
  return live;
}
`,
  body: ({ofKeys}) => `
let heads = ${ofKeys ? 'max(1u, u.groupSize / u.maskGroup)' : '1u'};
let firstHead = item / rowBlocks() * heads;
let rowBlock = item % rowBlocks();
let own = liveTiles(firstHead, heads, rowBlock);
var rank = 0u;
for (var other = 0u; other < rowBlocks(); other++) {
  let live = liveTiles(firstHead, heads, other);
  rank += u32(live > own || (live == own && other < rowBlock));
}
mask[4u * (scheduleAt(firstHead) + rank) + 3u] = i32(rowBlock);`,
};

const blockConstants = ({blockQ, blockK}: ScheduleVariant): string =>
  declareConstants({BLOCK_Q: blockQ, BLOCK_K: blockK, ...mapConstants({blockK})});
