// combine_out Dv=16
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
@group(0) @binding(1) var<storage, read> outs: array<vec4f>;
@group(0) @binding(2) var<storage, read> splitStats: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> rowStats: array<vec2f>;

const EMPTY = 0u;
const PARTIAL = 1u;
const FULL = 2u;
// The lowest float: no finite score is below it, and WGSL lets an implementation assume that no infinity occurs.
const LOWEST = -3.4028234663852886e38f;
const LN_2 = 0.6931471805599453f;

fn orNaN(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  return bitcast<f32>(select(bits, bits | 0x7fc00000u, (bits & 0x7f800000u) == 0x7f800000u));
}

fn logSumExp(most: f32, sum: f32) -> f32 {
  if (sum == 0.0) { return u.negativeInfinity; }
  return select(sum, (most + log2(sum)) * LN_2, (bitcast<u32>(sum) & 0x7f800000u) != 0x7f800000u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = (u.firstWorkgroup + id.y * u.gridX + id.x) * 64u + lid;
  if (item >= u.workEnd) { return; }
  let row = item / 4u;
  let d = item % 4u;
  let bh = row / u.Sq;
  let at = (bh / u.H) * u.oBatch + (bh % u.H) * u.oHead + (row % u.Sq) * u.oRow + d;
  let rows = u.B * u.H * u.Sq;
  var most = LOWEST;
  for (var split = 0u; split < u.splits; split++) { most = max(most, splitStats[split * rows + row].x); }
  var total = 0.0;
  var sum = vec4f();
  for (var split = 0u; split < u.splits; split++) {
    let stats = splitStats[split * rows + row];
    let weight = stats.y * exp2((stats.x - most) * u.scaleLog2);
    total += weight;
    sum += weight * outs[split * u.B * u.oBatch + at];
  }
  out[at] = select(sum / total, vec4f(), total == 0.0);
  if (d == 0u) {
    lse[row] = logSumExp(most * u.scaleLog2, total);
    rowStats[row] = vec2f(most, total);
  }
}
