// rms_norm_grad channels=64
struct Sizes {
  firstWorkgroup: u32,
  gridX: u32,
  workEnd: u32,
}
@group(0) @binding(0) var<uniform> u: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(3) var<storage, read> inverse: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> dx: array<vec4f>;

const ELEMENTS = 16u;
const THREADS = 64u;
var<workgroup> sums: array<f32, THREADS>;

fn rowSum(lid: u32, value: f32) -> f32 {
  sums[lid] = value;
  for (var reach = THREADS / 2u; reach > 0u; reach /= 2u) {
    workgroupBarrier();
    if (lid < reach) { sums[lid] += sums[lid + reach]; }
  }
  workgroupBarrier();
  return sums[0];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }
  let factor = inverse[item];
  var products = 0.0;
  for (var i = lid; i < ELEMENTS; i += THREADS) {
    let at = item * ELEMENTS + i;
    products += dot(dy[at] * gamma[i], (x[at] * factor));
  }
  let mean = rowSum(lid, products) / 64f;
  for (var i = lid; i < ELEMENTS; i += THREADS) {
    let at = item * ELEMENTS + i;
    dx[at] = (dy[at] * gamma[i] - x[at] * factor * mean) * factor;
  }
}
