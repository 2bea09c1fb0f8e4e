// gamma_grad channels=64
struct Sizes {
  firstWorkgroup: u32,
  gridX: u32,
  workEnd: u32,
}
@group(0) @binding(0) var<uniform> u: Sizes;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> inverse: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> sums: array<vec4f>;

const ELEMENTS = 16u;
const BLOCKS = 1u;
const COLUMNS = 32u;
const LANES = 8u;
var<workgroup> laneSums: array<vec4f, COLUMNS * LANES>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }
  let column = item % BLOCKS * COLUMNS + lid % COLUMNS;
  let chunk = item / BLOCKS;
  let chunks = u.workEnd / BLOCKS;
  let lane = lid / COLUMNS;
  let rows = arrayLength(&x) / ELEMENTS;
  var sum = vec4f();
  if (column < ELEMENTS) {
    for (var row = chunk * LANES + lane; row < rows; row += chunks * LANES) {
      let at = row * ELEMENTS + column;
      sum += dy[at] * (x[at] * inverse[row]);
    }
  }
  laneSums[lid] = sum;
  for (var reach = LANES / 2u; reach > 0u; reach /= 2u) {
    workgroupBarrier();
    if (lane < reach) { laneSums[lid] += laneSums[lid + reach * COLUMNS]; }
  }
  if (lane == 0u && column < ELEMENTS) { sums[chunk * ELEMENTS + column] = laneSums[lid]; }
}
