// rotate H=2 D=6 back
struct Sizes {
  firstWorkgroup: u32,
  gridX: u32,
  workEnd: u32,
}
@group(0) @binding(0) var<uniform> u: Sizes;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> cosines: array<f32>;
@group(0) @binding(3) var<storage, read> sines: array<f32>;
@group(0) @binding(4) var<storage, read_write> result: array<f32>;

const HALF = 3u;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = (u.firstWorkgroup + id.y * u.gridX + id.x) * 256u + lid;
  if (item >= u.workEnd) { return; }
  let token = item / 6u;
  let head = item / HALF;
  let i = item % HALF;
  let left = head * 2u * HALF + i;
  let right = left + HALF;
  let angle = token * 2u * HALF + i;
  let a = x[left];
  let b = x[right];
  result[left] = a * cosines[angle] - b * sines[angle];
  result[right] = b * cosines[angle + HALF] - a * sines[angle + HALF];
}
