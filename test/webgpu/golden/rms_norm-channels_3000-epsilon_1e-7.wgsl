// rms_norm channels=3000 epsilon=1e-7
struct Sizes {
  firstWorkgroup: u32,
  gridX: u32,
  workEnd: u32,
}
@group(0) @binding(0) var<uniform> u: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> gamma: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> result: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> inverse: array<f32>;

const ELEMENTS = 750u;
const THREADS = 256u;
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

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }
  var squares = 0.0;
  for (var i = lid; i < ELEMENTS; i += THREADS) {
    let at = item * ELEMENTS + i;
    squares += dot(x[at], x[at]);
  }
  let factor = inverseSqrt(rowSum(lid, squares) / 3000f + 1e-7f);
  for (var i = lid; i < ELEMENTS; i += THREADS) {
    let at = item * ELEMENTS + i;
    result[at] = x[at] * factor * gamma[i];
  }
  if (lid == 0u) { inverse[item] = factor; }
}
