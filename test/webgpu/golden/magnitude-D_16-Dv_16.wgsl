// magnitude names=qxkxv D=16 Dv=16 causal intervals
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
@group(0) @binding(1) var<storage, read> q: array<vec4f>;
@group(0) @binding(2) var<storage, read> k: array<vec4f>;
@group(0) @binding(3) var<storage, read> v: array<vec4f>;
@group(0) @binding(4) var<storage, read> mask: array<vec4i>;
@group(0) @binding(5) var<storage, read_write> magnitudes: array<f32>;

fn isNotFinite(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7f800000u)) == vec4u(0x7f800000u); }

// Mask heads are counted over the batches of the mask, also in a slice of the heads.
fn maskHeadOf(b: u32, h: u32) -> u32 {
  return u.firstMaskHead + b * u.maskBatchStride + h / u.maskGroup;
}

struct Bounds { lowerStart: vec4i, lowerEnd: vec4i, upperStart: vec4i, upperEnd: vec4i }

fn visible(r: vec4i, j: vec4i, bounds: Bounds) -> vec4<bool> {
  return (r < vec4i(i32(u.Sq))) & (j < vec4i(i32(u.Sk))) & (r >= j - u.causalOffset) & !((r >= bounds.lowerStart) & (r < bounds.lowerEnd)) & !((r >= bounds.upperStart) & (r < bounds.upperEnd));
}

fn boundsOfKeys(maskHead: u32, j: u32) -> Bounds {
  let at = 2u * u.maskHeads * u.mapBlocks + maskHead * u.Sk + j;
  let b = array(mask[at], mask[at + 1u], mask[at + 2u], mask[at + 3u]);
  return Bounds(vec4i(b[0].x, b[1].x, b[2].x, b[3].x), vec4i(b[0].y, b[1].y, b[2].y, b[3].y), vec4i(b[0].z, b[1].z, b[2].z, b[3].z), vec4i(b[0].w, b[1].w, b[2].w, b[3].w));
}

fn boundsOfKey(maskHead: u32, j: u32) -> Bounds {
  let b = mask[2u * u.maskHeads * u.mapBlocks + maskHead * u.Sk + j];
  return Bounds(vec4i(b.x), vec4i(b.y), vec4i(b.z), vec4i(b.w));
}

fn isSeen(head: u32, j: u32) -> bool {
  for (var member = 0u; member < u.groupSize; member++) {
    // Rows below reach are masked.
    var reach = max(i32(j) - u.causalOffset, 0);
    let bounds = boundsOfKey(maskHeadOf(head / u.Hkv, head % u.Hkv * u.groupSize + member), j);
    for (var again = 0u; again < 2u; again++) {
      reach = select(reach, max(reach, bounds.lowerEnd.x), bounds.lowerStart.x <= reach);
      reach = select(reach, max(reach, bounds.upperEnd.x), bounds.upperStart.x <= reach);
    }
    if (reach < i32(u.Sq)) { return true; }
  }
  return false;
}

fn seesKey(head: u32, r: u32) -> bool {
  let maskHead = maskHeadOf(head / u.H, head % u.H);
  let diagonal = u32(clamp(i32(r) + u.causalOffset, 0, i32(u.Sk) - 1));
  for (var i = 0u; i < u.Sk; i++) {
    let j = (diagonal + u.Sk - i) % u.Sk;
    if (visible(vec4i(i32(r)), vec4i(i32(j)), boundsOfKey(maskHead, j)).x) { return true; }
  }
  return false;
}

// Not 0 once a thread has met an infinite or NaN number.
var<workgroup> notFiniteMet: u32;

var<workgroup> largest: array<f32, 256>;

fn largestFinite(x: vec4f) -> f32 {
  let finite = select(abs(x), vec4f(), isNotFinite(x));
  return max(max(finite.x, finite.y), max(finite.z, finite.w));
}

fn quad_q(head: u32, row: u32, d: u32) -> vec4f {
  let at = (head / u.H) * u.qBatch + (head % u.H) * u.qHead + row * u.qRow;
  return select(vec4f(), select(vec4f(), q[at + d], d < 4u), row < u.Sq);
}

fn largestConnectedOf_q(item: u32, lid: u32) -> f32 {
  let head = item / 32u;
  var most = 0.0;
  for (var i = item % 32u * 256u + lid; i < u.Sq * 4u; i += 8192u) {
    let largest = largestFinite(quad_q(head, i / 4u, i % 4u));
    if (largest > most && seesKey(head, i / 4u)) { most = largest; }
  }
  return most;
}

fn largestOf_q(item: u32, lid: u32) -> f32 {
  let head = item / 32u;
  var most = 0.0;
  var mostRow = 0u;
  var sawNotFinite = false;
  for (var i = item % 32u * 256u + lid; i < u.Sq * 4u; i += 32768u) {
    let x0 = quad_q(head, (i + 0u) / 4u, (i + 0u) % 4u);
    let x1 = quad_q(head, (i + 8192u) / 4u, (i + 8192u) % 4u);
    let x2 = quad_q(head, (i + 16384u) / 4u, (i + 16384u) % 4u);
    let x3 = quad_q(head, (i + 24576u) / 4u, (i + 24576u) % 4u);
    {
      sawNotFinite |= any(isNotFinite(x0));
      let largest = largestFinite(x0);
      mostRow = select(mostRow, (i + 0u) / 4u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x1));
      let largest = largestFinite(x1);
      mostRow = select(mostRow, (i + 8192u) / 4u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x2));
      let largest = largestFinite(x2);
      mostRow = select(mostRow, (i + 16384u) / 4u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x3));
      let largest = largestFinite(x3);
      mostRow = select(mostRow, (i + 24576u) / 4u, largest > most);
      most = max(most, largest);
    }
  }
  if (sawNotFinite) { notFiniteMet = 1u; }
  if (most > 0.0 && !seesKey(head, mostRow)) { most = largestConnectedOf_q(item, lid); }
  return most;
}

fn quad_k(head: u32, row: u32, d: u32) -> vec4f {
  let at = (head / u.Hkv) * u.kBatch + (head % u.Hkv) * u.kHead + row * u.kRow;
  return select(vec4f(), select(vec4f(), k[at + d], d < 4u), row < u.Sk);
}

fn largestConnectedOf_k(item: u32, lid: u32) -> f32 {
  let head = item / 32u;
  var most = 0.0;
  for (var i = item % 32u * 256u + lid; i < u.Sk * 4u; i += 8192u) {
    let largest = largestFinite(quad_k(head, i / 4u, i % 4u));
    if (largest > most && isSeen(head, i / 4u)) { most = largest; }
  }
  return most;
}

fn largestOf_k(item: u32, lid: u32) -> f32 {
  let head = item / 32u;
  var most = 0.0;
  var mostRow = 0u;
  var sawNotFinite = false;
  for (var i = item % 32u * 256u + lid; i < u.Sk * 4u; i += 32768u) {
    let x0 = quad_k(head, (i + 0u) / 4u, (i + 0u) % 4u);
    let x1 = quad_k(head, (i + 8192u) / 4u, (i + 8192u) % 4u);
    let x2 = quad_k(head, (i + 16384u) / 4u, (i + 16384u) % 4u);
    let x3 = quad_k(head, (i + 24576u) / 4u, (i + 24576u) % 4u);
    {
      sawNotFinite |= any(isNotFinite(x0));
      let largest = largestFinite(x0);
      mostRow = select(mostRow, (i + 0u) / 4u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x1));
      let largest = largestFinite(x1);
      mostRow = select(mostRow, (i + 8192u) / 4u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x2));
      let largest = largestFinite(x2);
      mostRow = select(mostRow, (i + 16384u) / 4u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x3));
      let largest = largestFinite(x3);
      mostRow = select(mostRow, (i + 24576u) / 4u, largest > most);
      most = max(most, largest);
    }
  }
  if (sawNotFinite) { notFiniteMet = 1u; }
  if (most > 0.0 && !isSeen(head, mostRow)) { most = largestConnectedOf_k(item, lid); }
  return most;
}

fn quad_v(head: u32, row: u32, d: u32) -> vec4f {
  let at = (head / u.Hkv) * u.vBatch + (head % u.Hkv) * u.vHead + row * u.vRow;
  return select(vec4f(), select(vec4f(), v[at + d], d < 4u), row < u.Sk);
}

fn largestConnectedOf_v(item: u32, lid: u32) -> f32 {
  let head = item / 32u;
  var most = 0.0;
  for (var i = item % 32u * 256u + lid; i < u.Sk * 4u; i += 8192u) {
    let largest = largestFinite(quad_v(head, i / 4u, i % 4u));
    if (largest > most && isSeen(head, i / 4u)) { most = largest; }
  }
  return most;
}

fn largestOf_v(item: u32, lid: u32) -> f32 {
  let head = item / 32u;
  var most = 0.0;
  var mostRow = 0u;
  var sawNotFinite = false;
  for (var i = item % 32u * 256u + lid; i < u.Sk * 4u; i += 32768u) {
    let x0 = quad_v(head, (i + 0u) / 4u, (i + 0u) % 4u);
    let x1 = quad_v(head, (i + 8192u) / 4u, (i + 8192u) % 4u);
    let x2 = quad_v(head, (i + 16384u) / 4u, (i + 16384u) % 4u);
    let x3 = quad_v(head, (i + 24576u) / 4u, (i + 24576u) % 4u);
    {
      sawNotFinite |= any(isNotFinite(x0));
      let largest = largestFinite(x0);
      mostRow = select(mostRow, (i + 0u) / 4u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x1));
      let largest = largestFinite(x1);
      mostRow = select(mostRow, (i + 8192u) / 4u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x2));
      let largest = largestFinite(x2);
      mostRow = select(mostRow, (i + 16384u) / 4u, largest > most);
      most = max(most, largest);
    }
    {
      sawNotFinite |= any(isNotFinite(x3));
      let largest = largestFinite(x3);
      mostRow = select(mostRow, (i + 24576u) / 4u, largest > most);
      most = max(most, largest);
    }
  }
  if (sawNotFinite) { notFiniteMet = 1u; }
  if (most > 0.0 && !isSeen(head, mostRow)) { most = largestConnectedOf_v(item, lid); }
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
    store(item, lid, largestOf_q(rest, lid));
    return;
  }
  rest -= u.B * u.H * 32u;
  if (rest < u.B * u.Hkv * 32u) {
    store(item, lid, largestOf_k(rest, lid));
    return;
  }
  rest -= u.B * u.Hkv * 32u;
  if (rest < u.B * u.Hkv * 32u) {
    store(item, lid, largestOf_v(rest, lid));
    return;
  }
  rest -= u.B * u.Hkv * 32u;
}
