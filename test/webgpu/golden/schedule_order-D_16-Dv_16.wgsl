// schedule_order blockQ=32 blockK=32 causal
struct Sizes {
  B: u32,
  H: u32,
  Hkv: u32,
  Sq: u32,
  Sk: u32,
  groupSize: u32,
  maskGroup: u32,
  maskBatchStride: u32,
  maskHeads: u32,
  mapBlocks: u32,
  causalOffset: i32,
  foldedHeads: u32,
  splits: u32,
  firstWorkgroup: u32,
  gridX: u32,
  workEnd: u32,
  qBatch: u32,
  qRow: u32,
  qHead: u32,
  kBatch: u32,
  kRow: u32,
  kHead: u32,
  vBatch: u32,
  vRow: u32,
  vHead: u32,
  oBatch: u32,
  oRow: u32,
  oHead: u32,
  scale: f32,
  scaleLog2: f32,
  negativeInfinity: f32,
  seedLow: u32,
  seedHigh: u32,
  dropThreshold: u32,
  keepScale: f32,
  firstHead: u32,
  firstMaskHead: u32,
  copyLength: u32,
  sourceFirst: u32,
  sourceStride: u32,
  resultFirst: u32,
  resultStride: u32,
}
@group(0) @binding(0) var<uniform> u: Sizes;
@group(0) @binding(1) var<storage, read_write> mask: array<i32>;

const BLOCK_Q = 32u;
const BLOCK_K = 32u;
const MAP_BLOCK = 32u;
const MAP_SPAN = 1u;
const EMPTY = 0u;
const PARTIAL = 1u;
const FULL = 2u;
// The lowest float: no finite score is below it, and WGSL lets an implementation assume that no infinity occurs.
const LOWEST = -3.4028234663852886e38f;
const LN_2 = 0.6931471805599453f;

fn queryBlocks() -> u32 { return (u.Sq + BLOCK_Q - 1u) / BLOCK_Q; }
fn keyBlocks() -> u32 { return (u.Sk + BLOCK_K - 1u) / BLOCK_K; }
fn rowBlocks() -> u32 { return queryBlocks(); }

// Tiles x <= tile < y of a row block: those that the causal triangle does not mask.
fn triangleTiles(rowBlock: u32) -> vec2u {
  let rowsEnd = min(i32((rowBlock + 1u) * BLOCK_Q), i32(u.Sq));
  let end = (rowsEnd + u.causalOffset + i32(BLOCK_K) - 1) / i32(BLOCK_K);
  return vec2u(0u, u32(clamp(end, 0, i32(keyBlocks()))));
}

// Where the schedule of a mask head begins: after the bounds map and the columns of all mask heads.
fn scheduleAt(maskHead: u32) -> u32 {
  return 2u * u.maskHeads * u.mapBlocks + u.maskHeads * u.Sk + maskHead * rowBlocks();
}

fn liveTiles(firstHead: u32, heads: u32, rowBlock: u32) -> i32 {
  var live = 0;
  for (var head = firstHead; head < firstHead + heads; head++) {
    live += mask[4u * (scheduleAt(head) + rowBlock) + 2u];
  }
  return live;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = (u.firstWorkgroup + id.y * u.gridX + id.x) * 64u + lid;
  if (item >= u.workEnd) { return; }
  let heads = 1u;
  let firstHead = item / rowBlocks() * heads;
  let rowBlock = item % rowBlocks();
  let own = liveTiles(firstHead, heads, rowBlock);
  var rank = 0u;
  for (var other = 0u; other < rowBlocks(); other++) {
    let live = liveTiles(firstHead, heads, other);
    rank += u32(live > own || (live == own && other < rowBlock));
  }
  mask[4u * (scheduleAt(firstHead) + rank) + 3u] = i32(rowBlock);
}
