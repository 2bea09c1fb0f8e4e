// matrix_probe M=16 N=16 K=16 lanes=32
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
requires subgroup_id;

@group(0) @binding(0) var<storage, read> a: array<vec4u>;
@group(0) @binding(1) var<storage, read> b: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

const THREADS = 64u;
const LANES = 32u;
const BANDS = 2u;
const ROW_LANES = 2u;
const BAND_ROWS = 16u;
const ROWS = 32u;
const SIDE = 32u;
const UNITS = 4u;
const QUADS = 8u;
const TILE_STRIDE = 5u;
const WEIGHT_STRIDE = 10u;
const SCORE_STRIDE = 9u;
var<workgroup> tile: array<vec4u, SIDE * TILE_STRIDE>;
var<workgroup> weights: array<array<vec4<f16>, BAND_ROWS * WEIGHT_STRIDE>, BANDS>;
var<workgroup> scores: array<array<vec4f, BAND_ROWS * SCORE_STRIDE>, BANDS>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) lid: u32, @builtin(subgroup_id) band: u32, @builtin(subgroup_invocation_id) lane: u32) {
  // The passes take an invocation's place in its subgroup from its index in the workgroup.
  let inOrder = band == lid / LANES && lane == lid % LANES;
  let laneBand = lid / LANES;
  let row = lid % LANES / ROW_LANES;
  let laneShare = lid % ROW_LANES;
  for (var i = lid; i < SIDE * UNITS; i += THREADS) {
    tile[i / UNITS * TILE_STRIDE + i % UNITS] = b[i];
  }
  workgroupBarrier();
  var s0: subgroup_matrix_result<f32, 16, 16>;
  var s1: subgroup_matrix_result<f32, 16, 16>;
  s0 = subgroup_matrix_result<f32, 16, 16>();
  s1 = subgroup_matrix_result<f32, 16, 16>();
  { let l = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&a, band * BAND_ROWS * UNITS + 0u, UNITS); s0 = subgroupMatrixMultiplyAccumulate(l, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&tile, 0u * TILE_STRIDE + 0u, TILE_STRIDE), s0);
    s1 = subgroupMatrixMultiplyAccumulate(l, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&tile, 16u * TILE_STRIDE + 0u, TILE_STRIDE), s1); }
  { let l = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&a, band * BAND_ROWS * UNITS + 2u, UNITS); s0 = subgroupMatrixMultiplyAccumulate(l, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&tile, 0u * TILE_STRIDE + 2u, TILE_STRIDE), s0);
    s1 = subgroupMatrixMultiplyAccumulate(l, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&tile, 16u * TILE_STRIDE + 2u, TILE_STRIDE), s1); }
  subgroupMatrixStore<row_major>(&scores[band], 0u, s0, SCORE_STRIDE);
  subgroupMatrixStore<row_major>(&scores[band], 4u, s1, SCORE_STRIDE);
  workgroupBarrier();
  var most = 0.0;
  for (var i = laneShare; i < QUADS; i += ROW_LANES) {
    let x = scores[laneBand][row * SCORE_STRIDE + i];
    most = max(most, max(max(x.x, x.y), max(x.z, x.w)));
    weights[laneBand][row * WEIGHT_STRIDE + i] = vec4<f16>(x);
  }
  most = max(most, subgroupShuffleXor(most, 1u));
  let impossible = subgroupAny(most < 0.0) || !inOrder;
  workgroupBarrier();
  s0 = subgroup_matrix_result<f32, 16, 16>();
  s1 = subgroup_matrix_result<f32, 16, 16>();
  { let l = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&weights[band], 0u, WEIGHT_STRIDE); s0 = subgroupMatrixMultiplyAccumulate(l, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile, 0u * TILE_STRIDE + 0u, TILE_STRIDE), s0);
    s1 = subgroupMatrixMultiplyAccumulate(l, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile, 0u * TILE_STRIDE + 2u, TILE_STRIDE), s1); }
  { let l = subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&weights[band], 4u, WEIGHT_STRIDE); s0 = subgroupMatrixMultiplyAccumulate(l, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile, 16u * TILE_STRIDE + 0u, TILE_STRIDE), s0);
    s1 = subgroupMatrixMultiplyAccumulate(l, subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&tile, 16u * TILE_STRIDE + 2u, TILE_STRIDE), s1); }
  subgroupMatrixStore<row_major>(&scores[band], 0u, s0, SCORE_STRIDE);
  subgroupMatrixStore<row_major>(&scores[band], 4u, s1, SCORE_STRIDE);
  workgroupBarrier();
  for (var i = laneShare; i < QUADS; i += ROW_LANES) {
    scores[laneBand][row * SCORE_STRIDE + i] *= select(3.0, 0.0, impossible);
  }
  workgroupBarrier();
  s0 = subgroupMatrixLoad<subgroup_matrix_result<f32, 16, 16>, row_major>(&scores[band], 0u, SCORE_STRIDE);
  s1 = subgroupMatrixLoad<subgroup_matrix_result<f32, 16, 16>, row_major>(&scores[band], 4u, SCORE_STRIDE);
  workgroupBarrier();
  subgroupMatrixStore<row_major>(&scores[band], 0u, s0, SCORE_STRIDE);
  subgroupMatrixStore<row_major>(&scores[band], 4u, s1, SCORE_STRIDE);
  workgroupBarrier();
  for (var i = lid; i < ROWS * QUADS; i += THREADS) {
    out[i] = scores[i / QUADS / BAND_ROWS][i / QUADS % BAND_ROWS * SCORE_STRIDE + i % QUADS];
  }
}
