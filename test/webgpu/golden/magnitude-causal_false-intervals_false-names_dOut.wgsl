// magnitude names=dOut D=64 Dv=64
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
@group(0) @binding(1) var<storage, read> dOut: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> magnitudes: array<f32>;

fn isNotFinite(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7f800000u)) == vec4u(0x7f800000u); }

// Not 0 once a thread has met an infinite or NaN number.
var<workgroup> notFiniteMet: u32;

var<workgroup> largest: array<f32, 256>;

fn largestFinite(x: vec4f) -> f32 {
  let finite = select(abs(x), vec4f(), isNotFinite(x));
  return max(max(finite.x, finite.y), max(finite.z, finite.w));
}

fn quad_dOut(head: u32, row: u32, d: u32) -> vec4f {
  let at = (head / u.H) * u.oBatch + (head % u.H) * u.oHead + row * u.oRow;
  return select(vec4f(), select(vec4f(), dOut[at + d], d < 16u), row < u.Sq);
}

fn largestOf_dOut(item: u32, lid: u32) -> f32 {
  let head = item / 32u;
  var most = 0.0;
  var mostRow = 0u;
  var sawNotFinite = false;
  for (var i = item % 32u * 256u + lid; i < u.Sq * 16u; i += 32768u) {
    let x0 = quad_dOut(head, (i + 0u) / 16u, (i + 0u) % 16u);
    let x1 = quad_dOut(head, (i + 8192u) / 16u, (i + 8192u) % 16u);
    let x2 = quad_dOut(head, (i + 16384u) / 16u, (i + 16384u) % 16u);
    let x3 = quad_dOut(head, (i + 24576u) / 16u, (i + 24576u) % 16u);
    {
      sawNotFinite |= any(isNotFinite(x0));
      let largest = largestFinite(x0);
      mostRow = select(mostRow, (i + 0u) / 16u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x1));
      let largest = largestFinite(x1);
      mostRow = select(mostRow, (i + 8192u) / 16u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x2));
      let largest = largestFinite(x2);
      mostRow = select(mostRow, (i + 16384u) / 16u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x3));
      let largest = largestFinite(x3);
      mostRow = select(mostRow, (i + 24576u) / 16u, largest > most);
      most = max(most, largest);
    }
  }
  if (sawNotFinite) { notFiniteMet = 1u; }
  return most;
}

fn store(workgroup: u32, lid: u32, most: f32) {
  largest[lid] = most;
  for (var half = 128u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lid < half) { largest[lid] = max(largest[lid], largest[lid + half]); }
  }
  if (lid == 0u) { magnitudes[workgroup] = bitcast<f32>(bitcast<u32>(largest[0]) | (notFiniteMet << 31u)); }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }
  var rest = item;
  if (rest < u.B * u.H * 32u) {
    store(item, lid, largestOf_dOut(rest, lid));
    return;
  }
  rest -= u.B * u.H * 32u;
}
