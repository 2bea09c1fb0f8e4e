// float16_copies names=qxkxv D=16 Dv=16 padded=64 halvesPerNumber=1
enable f16;

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
@group(0) @binding(4) var<storage, read> magnitudes: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> qHalves: array<vec4u>;
@group(0) @binding(6) var<storage, read_write> kHalves: array<vec4u>;
@group(0) @binding(7) var<storage, read_write> vHalves: array<vec4u>;

fn packed(x: vec4f, y: vec4f) -> vec4u { return vec4u(bitcast<vec2u>(vec4<f16>(x)), bitcast<vec2u>(vec4<f16>(y))); }

fn isNotFinite(x: vec4f) -> vec4<bool> { return (bitcast<vec4u>(x) & vec4u(0x7f800000u)) == vec4u(0x7f800000u); }

// Only numbers that do not count are too large for float16: no pair sees them.
fn scaled(x: vec4f, scale: f32) -> vec4f {
  return select(clamp(x * scale, vec4f(-65504.0), vec4f(65504.0)), x, isNotFinite(x));
}

// Of the given magnitudes: x is the biased exponent of the largest, which becomes 2^14 to 2^15. y is not 0 if there are
// infinite or NaN numbers.
fn largestOf(first: u32, count: u32) -> vec2u {
  var most = vec4f();
  var signs = vec4u();
  for (var i = 0u; i < count; i++) {
    most = max(most, abs(magnitudes[first + i]));
    signs |= bitcast<vec4u>(magnitudes[first + i]);
  }
  let exponent = bitcast<u32>(max(max(most.x, most.y), max(most.z, most.w))) >> 23u;
  return vec2u(clamp(exponent, 15u, 253u), (signs.x | signs.y | signs.z | signs.w) >> 31u);
}

fn quad_q(head: u32, row: u32, d: u32) -> vec4f {
  let at = (head / u.H) * u.qBatch + (head % u.H) * u.qHead + row * u.qRow;
  return select(vec4f(), select(vec4f(), q[at + d], d < 4u), row < u.Sq);
}

fn copy_q(item: u32, lid: u32) {
  let workgroups = (((u.Sq + 255u) / 256u * 256u) * 8u / 1024u);
  let head = item / workgroups;
  let group = head / u.groupSize;
  let most = largestOf((0u) + group * u.groupSize * 8u, u.groupSize * 8u);
  let biased = most.x;
  let scale = bitcast<f32>((268u - biased) << 23u);
  if (item % workgroups == 0u && head % u.groupSize == 0u && lid == 0u) {
    qHalves[u.B * u.H * ((u.Sq + 255u) / 256u * 256u) * 8u + group] = vec4u((biased - 14u) << 23u, most.y, 0u, 0u);
  }
  let start = item % workgroups * 1024u + lid;
  let r0 = (start + 0u) / 8u;
  let unit0 = (start + 0u) % 8u;
  let x0 = scaled(quad_q(head, r0, 2u * unit0), scale);
  let y0 = scaled(quad_q(head, r0, 2u * unit0 + 1u), scale);
  let r1 = (start + 256u) / 8u;
  let unit1 = (start + 256u) % 8u;
  let x1 = scaled(quad_q(head, r1, 2u * unit1), scale);
  let y1 = scaled(quad_q(head, r1, 2u * unit1 + 1u), scale);
  let r2 = (start + 512u) / 8u;
  let unit2 = (start + 512u) % 8u;
  let x2 = scaled(quad_q(head, r2, 2u * unit2), scale);
  let y2 = scaled(quad_q(head, r2, 2u * unit2 + 1u), scale);
  let r3 = (start + 768u) / 8u;
  let unit3 = (start + 768u) % 8u;
  let x3 = scaled(quad_q(head, r3, 2u * unit3), scale);
  let y3 = scaled(quad_q(head, r3, 2u * unit3 + 1u), scale);
  qHalves[(head * ((u.Sq + 255u) / 256u * 256u) + r0) * 8u + 0u + unit0] = packed(x0, y0);
  qHalves[(head * ((u.Sq + 255u) / 256u * 256u) + r1) * 8u + 0u + unit1] = packed(x1, y1);
  qHalves[(head * ((u.Sq + 255u) / 256u * 256u) + r2) * 8u + 0u + unit2] = packed(x2, y2);
  qHalves[(head * ((u.Sq + 255u) / 256u * 256u) + r3) * 8u + 0u + unit3] = packed(x3, y3);
}

fn quad_k(head: u32, row: u32, d: u32) -> vec4f {
  let at = (head / u.Hkv) * u.kBatch + (head % u.Hkv) * u.kHead + row * u.kRow;
  return select(vec4f(), select(vec4f(), k[at + d], d < 4u), row < u.Sk);
}

fn copy_k(item: u32, lid: u32) {
  let workgroups = (((u.Sk + 255u) / 256u * 256u) * 8u / 1024u);
  let head = item / workgroups;
  let group = head / 1u;
  let most = largestOf((0u + u.B * u.H * 32u / 4u) + group * 1u * 8u, 1u * 8u);
  let biased = most.x;
  let scale = bitcast<f32>((268u - biased) << 23u);
  if (item % workgroups == 0u && head % 1u == 0u && lid == 0u) {
    kHalves[u.B * u.Hkv * ((u.Sk + 255u) / 256u * 256u) * 8u + group] = vec4u((biased - 14u) << 23u, most.y, 0u, 0u);
  }
  let start = item % workgroups * 1024u + lid;
  let r0 = (start + 0u) / 8u;
  let unit0 = (start + 0u) % 8u;
  let x0 = scaled(quad_k(head, r0, 2u * unit0), scale);
  let y0 = scaled(quad_k(head, r0, 2u * unit0 + 1u), scale);
  let r1 = (start + 256u) / 8u;
  let unit1 = (start + 256u) % 8u;
  let x1 = scaled(quad_k(head, r1, 2u * unit1), scale);
  let y1 = scaled(quad_k(head, r1, 2u * unit1 + 1u), scale);
  let r2 = (start + 512u) / 8u;
  let unit2 = (start + 512u) % 8u;
  let x2 = scaled(quad_k(head, r2, 2u * unit2), scale);
  let y2 = scaled(quad_k(head, r2, 2u * unit2 + 1u), scale);
  let r3 = (start + 768u) / 8u;
  let unit3 = (start + 768u) % 8u;
  let x3 = scaled(quad_k(head, r3, 2u * unit3), scale);
  let y3 = scaled(quad_k(head, r3, 2u * unit3 + 1u), scale);
  kHalves[(head * ((u.Sk + 255u) / 256u * 256u) + r0) * 8u + 0u + unit0] = packed(x0, y0);
  kHalves[(head * ((u.Sk + 255u) / 256u * 256u) + r1) * 8u + 0u + unit1] = packed(x1, y1);
  kHalves[(head * ((u.Sk + 255u) / 256u * 256u) + r2) * 8u + 0u + unit2] = packed(x2, y2);
  kHalves[(head * ((u.Sk + 255u) / 256u * 256u) + r3) * 8u + 0u + unit3] = packed(x3, y3);
}

fn quad_v(head: u32, row: u32, d: u32) -> vec4f {
  let at = (head / u.Hkv) * u.vBatch + (head % u.Hkv) * u.vHead + row * u.vRow;
  return select(vec4f(), select(vec4f(), v[at + d], d < 4u), row < u.Sk);
}

fn copy_v(item: u32, lid: u32) {
  let workgroups = (((u.Sk + 255u) / 256u * 256u) * 8u / 1024u);
  let head = item / workgroups;
  let group = head / 1u;
  let most = largestOf((0u + u.B * u.H * 32u / 4u + u.B * u.Hkv * 32u / 4u) + group * 1u * 8u, 1u * 8u);
  let biased = most.x;
  let scale = bitcast<f32>((268u - biased) << 23u);
  if (item % workgroups == 0u && head % 1u == 0u && lid == 0u) {
    vHalves[u.B * u.Hkv * ((u.Sk + 255u) / 256u * 256u) * 8u + group] = vec4u((biased - 14u) << 23u, most.y, 0u, 0u);
  }
  let start = item % workgroups * 1024u + lid;
  let r0 = (start + 0u) / 8u;
  let unit0 = (start + 0u) % 8u;
  let x0 = scaled(quad_v(head, r0, 2u * unit0), scale);
  let y0 = scaled(quad_v(head, r0, 2u * unit0 + 1u), scale);
  let r1 = (start + 256u) / 8u;
  let unit1 = (start + 256u) % 8u;
  let x1 = scaled(quad_v(head, r1, 2u * unit1), scale);
  let y1 = scaled(quad_v(head, r1, 2u * unit1 + 1u), scale);
  let r2 = (start + 512u) / 8u;
  let unit2 = (start + 512u) % 8u;
  let x2 = scaled(quad_v(head, r2, 2u * unit2), scale);
  let y2 = scaled(quad_v(head, r2, 2u * unit2 + 1u), scale);
  let r3 = (start + 768u) / 8u;
  let unit3 = (start + 768u) % 8u;
  let x3 = scaled(quad_v(head, r3, 2u * unit3), scale);
  let y3 = scaled(quad_v(head, r3, 2u * unit3 + 1u), scale);
  vHalves[(head * ((u.Sk + 255u) / 256u * 256u) + r0) * 8u + 0u + unit0] = packed(x0, y0);
  vHalves[(head * ((u.Sk + 255u) / 256u * 256u) + r1) * 8u + 0u + unit1] = packed(x1, y1);
  vHalves[(head * ((u.Sk + 255u) / 256u * 256u) + r2) * 8u + 0u + unit2] = packed(x2, y2);
  vHalves[(head * ((u.Sk + 255u) / 256u * 256u) + r3) * 8u + 0u + unit3] = packed(x3, y3);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }
  var rest = item;
  if (rest < u.B * u.H * (((u.Sq + 255u) / 256u * 256u) * 8u / 1024u)) {
    copy_q(rest, lid);
    return;
  }
  rest -= u.B * u.H * (((u.Sq + 255u) / 256u * 256u) * 8u / 1024u);
  if (rest < u.B * u.Hkv * (((u.Sk + 255u) / 256u * 256u) * 8u / 1024u)) {
    copy_k(rest, lid);
    return;
  }
  rest -= u.B * u.Hkv * (((u.Sk + 255u) / 256u * 256u) * 8u / 1024u);
  if (rest < u.B * u.Hkv * (((u.Sk + 255u) / 256u * 256u) * 8u / 1024u)) {
    copy_v(rest, lid);
    return;
  }
  rest -= u.B * u.Hkv * (((u.Sk + 255u) / 256u * 256u) * 8u / 1024u);
}
