// gated_unit element=vec4f
struct Sizes {
  firstWorkgroup: u32,
  gridX: u32,
  workEnd: u32,
}
@group(0) @binding(0) var<uniform> u: Sizes;
@group(0) @binding(1) var<storage, read> gate: array<vec4f>;
@group(0) @binding(2) var<storage, read> up: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> result: array<vec4f>;

fn sigmoid(x: vec4f) -> vec4f {
  let power = exp(-abs(x));
  return select(power, vec4f(1.0), x >= vec4f()) / (1.0 + power);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = (u.firstWorkgroup + id.y * u.gridX + id.x) * 256u + lid;
  if (item >= u.workEnd) { return; }
  let g = gate[item];
  result[item] = g * sigmoid(g) * up[item];
}
