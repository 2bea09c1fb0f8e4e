// gated_unit element=f32
struct Sizes {
  firstWorkgroup: u32,
  gridX: u32,
  workEnd: u32,
}
@group(0) @binding(0) var<uniform> u: Sizes;
@group(0) @binding(1) var<storage, read> gate: array<f32>;
@group(0) @binding(2) var<storage, read> up: array<f32>;
@group(0) @binding(3) var<storage, read_write> result: array<f32>;

fn sigmoid(x: f32) -> f32 {
  let power = exp(-abs(x));
  return select(power, f32(1.0), x >= f32()) / (1.0 + power);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = (u.firstWorkgroup + id.y * u.gridX + id.x) * 256u + lid;
  if (item >= u.workEnd) { return; }
  let g = gate[item];
  result[item] = g * sigmoid(g) * up[item];
}
