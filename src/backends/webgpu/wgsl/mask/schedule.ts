/**
 * @file The passes that make the schedule of a mask: which tiles its row blocks visit, and in which order the blocks
 * start.
 *
 * The schedule lies in the mask buffer after the bounds map and the columns (tiles.ts). Its vec4i i of a mask head
 * holds
 *
 * - x: the first live tile of row block i,
 * - y: one past the last live tile of row block i,
 * - z: the number of live tiles of row block i,
 * - w: the row block of rank i, where rank 0 has the most live tiles.
 *
 * x and y are 0 if no tile is live. The size of a schedule is linear in the length. That of lists of all live tiles
 * would be quadratic. An empty tile between x and y costs a pass one bit, as without a schedule.
 */
import {declareConstants, mapConstants} from '../header.js';
import type {Shader} from '../shader.js';
import {blockFunctions, type RowBlocks} from './row_blocks.js';
import {classifyFunction} from './tiles.js';

/**
 * The properties that a schedule depends on besides the mask. The passes over queries, forward and dq, share a schedule
 * if their tiles are equal.
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
 * Finds x, y and z. One workgroup per row block of a mask head: its threads classify the tiles of the block in turn.
 * The results do not depend on the order in which the threads add theirs.
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
 * Finds w. One thread per row block computes its rank by counting the blocks that start before it: those with more live
 * tiles, or as many and a smaller index. With equal query and key lengths this takes fewer comparisons than
 * `scheduleRanges` classifies tiles, and needs neither workgroup memory nor barriers.
 *
 * dkdv visits a key block for all query heads of a key head. If these have different mask heads, the sum of their live
 * tiles counts, and the order is stored with the first mask head.
 */
export const scheduleOrder: Shader<ScheduleVariant> = {
  name: 'schedule_order',
  fields: FIELDS,
  // Bound as single numbers: a thread writes w of a vec4i whose z other threads read.
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
