/**
 * @file A shader that uses subgroup matrices in every way in which the passes use them, on integers that float16 holds
 * exactly. The WGSL of the experimental feature has changed before, so the passes may run on a device only if it
 * compiles this shader and computes it correctly.
 *
 * The shader also tests whether subgroups hold neighbouring invocations in order, which the passes rely on.
 *
 * Each of two subgroups has a band of M rows. It computes scores S = A Bᵀ and stores them to workgroup memory, where
 * the lanes turn them into weights. Then it computes O = S B, rescaled in workgroup memory: 3 A Bᵀ B.
 */
import type {MatrixConfig} from '../../plan/vector_plan.js';
import {unroll} from '../header.js';
import type {Shader} from '../shader.js';
import {MATRIX_DIRECTIVES} from './directives.js';

/** Subgroups of the workgroup. */
const SUBGROUPS = 2;

/**
 * Rows of A, and the number of columns, which is also that of channels: at least two matrices in each direction, so
 * that offsets are tested too.
 */
export function probeSizes({M, N, K}: MatrixConfig): {rows: number; side: number} {
  return {rows: SUBGROUPS * M, side: 2 * Math.max(N, K)};
}

/** Constants of the shader. Strides are in elements of their arrays, and padded as in the passes. */
function constants(matrix: MatrixConfig): string {
  const {M, lanes} = matrix;
  const {rows, side} = probeSizes(matrix);
  const values = {
    THREADS: SUBGROUPS * lanes,
    LANES: lanes,
    BANDS: SUBGROUPS,
    ROW_LANES: lanes / M,
    BAND_ROWS: M,
    ROWS: rows,
    SIDE: side,
    UNITS: side / 8,
    QUADS: side / 4,
    TILE_STRIDE: side / 8 + 1,
    WEIGHT_STRIDE: side / 4 + 2,
    SCORE_STRIDE: side / 4 + 1,
  };
  return Object.entries(values)
    .map(([name, value]) => `const ${name} = ${value}u;`)
    .join('\n');
}

const DECLARATIONS = `
var<workgroup> tile: array<vec4u, SIDE * TILE_STRIDE>;
var<workgroup> weights: array<array<vec4<f16>, BAND_ROWS * WEIGHT_STRIDE>, BANDS>;
var<workgroup> scores: array<array<vec4f, BAND_ROWS * SCORE_STRIDE>, BANDS>;`;

/** The lanes read scores, combine them over their row and their subgroup, and write them as float16. */
const WEIGH = `
  var most = 0.0;
  for (var i = laneShare; i < QUADS; i += ROW_LANES) {
    let x = scores[laneBand][row * SCORE_STRIDE + i];
    most = max(most, max(max(x.x, x.y), max(x.z, x.w)));
    weights[laneBand][row * WEIGHT_STRIDE + i] = vec4<f16>(x);
  }
  most = max(most, subgroupShuffleXor(most, 1u));
  let impossible = subgroupAny(most < 0.0) || !inOrder;`;

const RESCALE = `
  for (var i = laneShare; i < QUADS; i += ROW_LANES) {
    scores[laneBand][row * SCORE_STRIDE + i] *= select(3.0, 0.0, impossible);
  }`;

/** WGSL that fills the matrices s0, s1, ... across the band with a product, and that stores and loads them. */
function steps(matrix: MatrixConfig): Record<'aTimesTransposedB' | 'weightsTimesB' | 'store' | 'load', string> {
  const {M, N, K} = matrix;
  const {side} = probeSizes(matrix);
  const left = `subgroupMatrixLoad<subgroup_matrix_left<f16, ${K}, ${M}>, row_major>`;
  const right = (order: string): string => `subgroupMatrixLoad<subgroup_matrix_right<f16, ${N}, ${K}>, ${order}>`;
  const result = `subgroup_matrix_result<f32, ${N}, ${M}>`;
  const across = (line: (s: number) => string): string => unroll(side / N, line);
  const product = (leftOf: (d: number) => string, rightOf: (d: number, s: number) => string): string =>
    `${across((s) => `s${s} = ${result}();`)}
${unroll(side / K, (d) => `{ let l = ${leftOf(d)}; ${across((s) => `s${s} = subgroupMatrixMultiplyAccumulate(l, ${rightOf(d, s)}, s${s});`)} }`)}`;
  const scoreAt = (s: number): string => `&scores[band], ${(s * N) / 4}u`;
  return {
    aTimesTransposedB: `${across((s) => `var s${s}: ${result};`)}
${product(
  (d) => `${left}(&a, band * BAND_ROWS * UNITS + ${(d * K) / 8}u, UNITS)`,
  (d, s) => `${right('col_major')}(&tile, ${s * N}u * TILE_STRIDE + ${(d * K) / 8}u, TILE_STRIDE)`,
)}`,
    weightsTimesB: product(
      (d) => `${left}(&weights[band], ${(d * K) / 4}u, WEIGHT_STRIDE)`,
      (d, s) => `${right('row_major')}(&tile, ${d * K}u * TILE_STRIDE + ${(s * N) / 8}u, TILE_STRIDE)`,
    ),
    store: across((s) => `subgroupMatrixStore<row_major>(${scoreAt(s)}, s${s}, SCORE_STRIDE);`),
    load: across((s) => `s${s} = subgroupMatrixLoad<${result}, row_major>(${scoreAt(s)}, SCORE_STRIDE);`),
  };
}

/** Bindings: a, `[rows, side]` float16; b, `[side, side]` float16; out, `[rows, side]` float32, all as vec4s. */
export const matrixProbe: Shader<MatrixConfig> = {
  name: 'matrix_probe',
  fields: {M: true, N: true, K: true, lanes: true},
  bindings: () => [
    {name: 'a', type: 'vec4u', access: 'read'},
    {name: 'b', type: 'vec4u', access: 'read'},
    {name: 'out', type: 'vec4f', access: 'read_write'},
  ],
  threads: ({lanes}) => SUBGROUPS * lanes,
  item: 'single',
  uniforms: [],
  directives: MATRIX_DIRECTIVES,
  builtins: {band: 'subgroup_id', lane: 'subgroup_invocation_id'},
  declarations: (matrix) => constants(matrix) + DECLARATIONS,
  body,
};

function body(matrix: MatrixConfig): string {
  const {aTimesTransposedB, weightsTimesB, store, load} = steps(matrix);
  return `
  // The passes take an invocation's place in its subgroup from its index in the workgroup.
  let inOrder = band == lid / LANES && lane == lid % LANES;
  let laneBand = lid / LANES;
  let row = lid % LANES / ROW_LANES;
  let laneShare = lid % ROW_LANES;
  for (var i = lid; i < SIDE * UNITS; i += THREADS) {
    tile[i / UNITS * TILE_STRIDE + i % UNITS] = b[i];
  }
  workgroupBarrier();
${aTimesTransposedB}
${store}
  workgroupBarrier();${WEIGH}
  workgroupBarrier();
${weightsTimesB}
${store}
  workgroupBarrier();${RESCALE}
  workgroupBarrier();
${load}
  workgroupBarrier();
${store}
  workgroupBarrier();
  for (var i = lid; i < ROWS * QUADS; i += THREADS) {
    out[i] = scores[i / QUADS / BAND_ROWS][i / QUADS % BAND_ROWS * SCORE_STRIDE + i % QUADS];
  }`;
}
