/**
 * @file The passes that make the schedule of a mask: which tiles its row blocks visit, and in which order the blocks start.
 *
 * The schedule lies in the mask buffer behind tile map and columns (tiles.ts). Of mask head m, its vec4i i holds
 *
 * | x                         | y                          | z                           | w                                |
 * |---------------------------|----------------------------|-----------------------------|----------------------------------|
 * | first live tile of block i | one past its last live tile | its number of live tiles | the block of rank i, most live tiles first |
 *
 * x and y are 0 where no tile is live. That is linear in the length. Lists of all live tiles would not be: their number is quadratic in
 * it. What is empty between x and y costs a pass one bit, as without a schedule.
 */
import {declare, declareConstants, mapConstants, type Binding} from '../header.js';
import {blockFunctions, type RowBlocks} from './row_blocks.js';
import {classifyFunction} from './tiles.js';

export const SCHEDULE_THREADS = 64;

/** Names the schedule of row blocks: equal keys mean equal code, and for one mask and lengths equal schedules. */
export function scheduleKey({pass, blockQ, blockK, causal}: RowBlocks): string {
  const side = pass === 'dkdv' ? 'keys' : 'queries';
  return `schedule_${side}_t${blockQ}x${blockK}${causal ? '_causal' : ''}`;
}

export const RANGES_BINDINGS: readonly Binding[] = [{name: 'mask', type: 'vec4i', access: 'read_write'}];

/**
 * Finds x, y and z. One workgroup a row block of a mask head: its threads classify the tiles of the block in turn. The results do not depend
 * on the order in which they add theirs.
 */
export function rangesShader(p: RowBlocks): string {
  const [queryBlock, keyBlock] = p.pass === 'dkdv' ? ['tile', 'rowBlock'] : ['rowBlock', 'tile'];
  return `${declare(RANGES_BINDINGS)}${blockConstants(p)}${blockFunctions(p)}${classifyFunction(p)}
var<workgroup> firstLive: atomic<u32>;
var<workgroup> endLive: atomic<u32>;
var<workgroup> allLive: atomic<u32>;

@compute @workgroup_size(${SCHEDULE_THREADS})
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let workgroup = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (workgroup >= u.workEnd) { return; }
  let maskHead = workgroup / rowBlocks();
  let rowBlock = workgroup % rowBlocks();
  let tiles = triangleTiles(rowBlock);
  if (lid == 0u) { atomicStore(&firstLive, tiles.y); }
  workgroupBarrier();
  var first = tiles.y;
  var end = 0u;
  var live = 0u;
  for (var tile = tiles.x + lid; tile < tiles.y; tile += ${SCHEDULE_THREADS}u) {
    let r0 = i32(${queryBlock} * BLOCK_Q);
    let r1 = min(r0 + i32(BLOCK_Q), i32(u.Sq));
    if (classify(maskHead, ${keyBlock}, r0, r1) == EMPTY) { continue; }
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
  }
}
`;
}

/** The numbers of the mask buffer one by one: threads write w of vec4is whose z others read. */
export const ORDER_BINDINGS: readonly Binding[] = [{name: 'mask', type: 'i32', access: 'read_write'}];

/**
 * Finds w. One thread a row block, which counts the blocks that start before its own: those with more live tiles, and of those with as
 * many the ones with smaller numbers. That is a comparison a pair of row blocks, at lengths alike fewer than the tiles that `rangesShader`
 * classifies, and needs neither workgroup memory nor barriers.
 *
 * dkdv visits a key block for all query heads of a key head. Where these have mask heads of their own, the sum of their live tiles counts,
 * and the order is stored with the first of them.
 */
export function orderShader(p: RowBlocks): string {
  return `${declare(ORDER_BINDINGS)}${blockConstants(p)}${blockFunctions(p)}
fn liveTiles(firstHead: u32, heads: u32, rowBlock: u32) -> i32 {
  var live = 0;
  for (var head = firstHead; head < firstHead + heads; head++) {
    live += mask[4u * (scheduleAt(head) + rowBlock) + 2u];
  }
  return live;
}

@compute @workgroup_size(${SCHEDULE_THREADS})
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let index = (u.firstWorkgroup + id.y * u.gridX + id.x) * ${SCHEDULE_THREADS}u + lid;
  if (index >= u.workEnd) { return; }
  let heads = ${p.pass === 'dkdv' ? 'max(1u, u.groupSize / u.maskGroup)' : '1u'};
  let firstHead = index / rowBlocks() * heads;
  let rowBlock = index % rowBlocks();
  let own = liveTiles(firstHead, heads, rowBlock);
  var rank = 0u;
  for (var other = 0u; other < rowBlocks(); other++) {
    let live = liveTiles(firstHead, heads, other);
    rank += u32(live > own || (live == own && other < rowBlock));
  }
  mask[4u * (scheduleAt(firstHead) + rank) + 3u] = i32(rowBlock);
}
`;
}

const blockConstants = ({blockQ, blockK}: RowBlocks): string =>
  declareConstants({BLOCK_Q: blockQ, BLOCK_K: blockK, ...mapConstants({blockK})});
