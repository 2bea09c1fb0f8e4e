// schedule_ranges blockQ=32 blockK=32 causal
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
@group(0) @binding(1) var<storage, read_write> mask: array<vec4i>;

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

// Rows below reach are masked in every column of the block. An interval whose largest start is not above reach extends
// it to the smallest end.
fn classify(maskHead: u32, keyBlock: u32, rowsBegin: i32, rowsEnd: i32) -> u32 {
  let c0 = i32(keyBlock * BLOCK_K);
  let c1 = min(c0 + i32(BLOCK_K), i32(u.Sk));
  var reach = rowsBegin;
  var full = true;
  reach = max(reach, c0 - u.causalOffset);
  full = rowsBegin >= c1 - 1 - u.causalOffset;
  let first = keyBlock * BLOCK_K / MAP_BLOCK;
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
  full = full && misses(lower, rowsBegin, rowsEnd) && misses(upper, rowsBegin, rowsEnd);
  if (reach >= rowsEnd) { return EMPTY; }
  // Columns past Sk hold zeros, not scores: the last ragged block takes the masked path.
  full = full && c0 + i32(BLOCK_K) <= i32(u.Sk);
  return select(PARTIAL, FULL, full);
}

var<workgroup> firstLive: atomic<u32>;
var<workgroup> endLive: atomic<u32>;
var<workgroup> allLive: atomic<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }
  let maskHead = item / rowBlocks();
  let rowBlock = item % rowBlocks();
  let tiles = triangleTiles(rowBlock);
  if (lid == 0u) { atomicStore(&firstLive, tiles.y); }
  workgroupBarrier();
  var first = tiles.y;
  var end = 0u;
  var live = 0u;
  for (var tile = tiles.x + lid; tile < tiles.y; tile += 64u) {
    let rowsBegin = i32(rowBlock * BLOCK_Q);
    let rowsEnd = min(rowsBegin + i32(BLOCK_Q), i32(u.Sq));
    if (classify(maskHead, tile, rowsBegin, rowsEnd) == EMPTY) { continue; }
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
