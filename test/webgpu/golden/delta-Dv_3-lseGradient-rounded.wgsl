// delta Dv=3 lseGradient rounded
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
@group(0) @binding(1) var<storage, read> out: array<f32>;
@group(0) @binding(2) var<storage, read> dOut: array<f32>;
@group(0) @binding(3) var<storage, read> rowStats: array<vec2f>;
@group(0) @binding(4) var<storage, read> dLse: array<f32>;
@group(0) @binding(5) var<storage, read_write> rowTerms: array<vec4f>;

fn isNotFinite(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7f800000u)) == vec4u(0x7f800000u); }

fn highOf(x: vec4f) -> vec4f { return bitcast<vec4f>((bitcast<vec4u>(x) + 0x1000u) & vec4u(0xffffe000u)); }

fn highPart(x: vec4f) -> vec4f { return select(highOf(x), x, isNotFinite(x)); }
fn lowPart(x: vec4f) -> vec4f { return select(x - highOf(x), vec4f(), isNotFinite(x)); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = (u.firstWorkgroup + id.y * u.gridX + id.x) * 64u + lid;
  if (item >= u.workEnd) { return; }
  let row = item % u.Sq;
  let bh = item / u.Sq;
  let at = (bh / u.H) * u.oBatch + (bh % u.H) * u.oHead + row * u.oRow;
  var delta = 0.0;
  for (var d = 0u; d < 3u; d++) {
    delta += out[at + d] * f32(highPart(vec4f(dOut[at + d])).x);
  }
  let stats = rowStats[item];
  // A row that saw no key: its weights vanish, whatever dO and dLse are.
  rowTerms[item] = select(vec4f(stats.x, 1.0 / stats.y, delta - dLse[item], 0.0), vec4f(), stats.y == 0.0);
}
