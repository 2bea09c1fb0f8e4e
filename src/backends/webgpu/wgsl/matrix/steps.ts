/**
 * @file The steps that the passes on subgroup matrices share (chromium-experimental-subgroup-matrix: tensor cores and
 * the like, which read float16 and accumulate in float32). Products, tiles and mask are those of vector/forward.ts and
 * vector/backward.ts. The elements of a matrix are not accessible, so scores go through workgroup memory to become
 * weights.
 *
 * A workgroup keeps `rows` rows, in *bands* of `bandRows`, and walks over the blocks of columns, which all its
 * subgroups share in workgroup memory. One subgroup works on a band, or two with different *roles*. Role 0 multiplies
 * the band's rows of the first row operand by the first column operand, role 1 those of the second row operand by the
 * second column operand. `rowLanes` lanes of each subgroup own a row and take its vec4s in turn.
 *
 * Offsets and strides of matrices count elements of their array: vec4u, vec4<f16> or vec4f.
 */
import {scoreStride, tileStride, weightStride, type MatrixShaderPlan} from '../../plan/matrix_plan.js';
import {HIGH_FUNCTION, paddedRows, rowUnits} from './float16_copies.js';
import {declareConstants, elementType, mapConstants, unroll, NOT_FINITE_FUNCTION} from '../header.js';
import {MATRIX_DIRECTIVES} from './directives.js';
import type {Shader} from '../shader.js';
import {rowBlockFunctions, rowBlockOfWorkgroup} from '../mask/row_blocks.js';
import {bindingsOf, operandsOf, type Operand} from '../operands.js';
import {keepFunction, visibleFunction} from '../vector/steps.js';
import {classifyFunction, TILE_BITS} from '../mask/tiles.js';

/** A part of a number: 0 is the rounded value, 1 the remainder. */
type Half = 0 | 1;

/**
 * The products of parts that make up a product. Remainder times remainder is left out: it is below float32's own
 * rounding.
 */
const PRODUCTS: Record<1 | 2, readonly [left: Half, right: Half][]> = {
  1: [[0, 0]],
  2: [
    [0, 0],
    [0, 1],
    [1, 0],
  ],
};

/**
 * The same for rows · columns. Parts are taken in the order of q and k in all passes, whichever of them is on the left,
 * so that all passes compute the same scores.
 */
const scoreProducts = ({halvesPerNumber, pass}: MatrixShaderPlan): readonly [left: Half, right: Half][] =>
  pass === 'dkdv' ? PRODUCTS[halvesPerNumber].map(([a, b]) => [b, a]) : PRODUCTS[halvesPerNumber];

const left = ({matrix: {M, K}}: MatrixShaderPlan): string => `subgroup_matrix_left<f16, ${K}, ${M}>`;
const right = ({matrix: {N, K}}: MatrixShaderPlan): string => `subgroup_matrix_right<f16, ${N}, ${K}>`;
const result = ({matrix: {M, N}}: MatrixShaderPlan): string => `subgroup_matrix_result<f32, ${N}, ${M}>`;

/** vec4us of a copied row. */
const unitsOf = (p: MatrixShaderPlan): number => rowUnits({padded: p.channels, halvesPerNumber: p.halvesPerNumber});
/** vec4us of one part of a copied row. */
const partUnits = (p: MatrixShaderPlan): number => p.channels / 8;
/** Number of matrices above each other in a band. */
const heights = (p: MatrixShaderPlan): number => p.bandRows / p.matrix.M;
/** Blocks of N channels that a subgroup accumulates. */
const accumulated = (p: MatrixShaderPlan): number => p.channels / p.matrix.N / (p.pass === 'dq' ? p.roles : 1);

/**
 * The fields that the shaders of all passes share. A lane computes its place from `lid`, whose bounds the compiler
 * knows.
 */
export const MATRIX_SHADER = {
  fields: {
    pass: true,
    D: true,
    Dv: true,
    causal: true,
    intervals: true,
    dropout: true,
    fewQueries: true,
    scheduled: true,
    halvesPerNumber: true,
    subgroups: true,
    bandRows: true,
    rows: true,
    cols: true,
    blockQ: true,
    blockK: true,
    threads: true,
    matrix: true,
    roles: true,
    channels: true,
    rowLanes: true,
  },
  // The inputs are float16 copies (float16_copies.ts).
  bindings: (p: MatrixShaderPlan) => bindingsOf(p, () => 'vec4u'),
  threads: ({threads}: MatrixShaderPlan) => threads,
  item: 'workgroup',
  directives: MATRIX_DIRECTIVES,
  builtins: {subgroup: 'subgroup_id'},
} as const satisfies Partial<Shader<MatrixShaderPlan>>;

export function declarations(p: MatrixShaderPlan): string {
  const values = {
    ROWS: p.rows,
    COLS: p.cols,
    BLOCK_Q: p.blockQ,
    BLOCK_K: p.blockK,
    ...mapConstants(p),
    THREADS: p.threads,
    LANES: p.matrix.lanes,
    ROLES: p.roles,
    ROW_LANES: p.rowLanes,
    BANDS: p.rows / p.bandRows,
    BAND_ROWS: p.bandRows,
    SCORE_STRIDE: scoreStride(p) / 4,
    WEIGHT_STRIDE: weightStride(p) / 4,
    // The size of one of the two column tiles.
    TILE: (p.cols * tileStride(p)) / 8,
  };
  const weightTiles = p.pass === 'dkdv' ? 2 : 1;
  return `${declareConstants(values)}
// src/backends/webgpu/plan/matrix_plan.ts counts the bytes of the workgroup arrays. Each band has its own inner array,
// so that matrices have constant offsets: with computed offsets Dawn adds a bounds check to each load and store.
var<workgroup> columns: array<array<vec4u, TILE>, 2>;
// The products of rows and columns, for each role, band by band.
var<workgroup> scores: array<array<vec4f, BAND_ROWS * SCORE_STRIDE>, ROLES * BANDS>;
var<workgroup> weights: array<array<vec4<f16>, ${p.halvesPerNumber}u * BAND_ROWS * WEIGHT_STRIDE>, ${weightTiles}u * BANDS>;
${TILE_BITS}
${NOT_FINITE_FUNCTION}${CLEAR_FUNCTION}${p.halvesPerNumber === 2 ? HIGH_FUNCTION : ''}${rowBlockFunctions(p)}${classifyFunction(p)}${visibleFunction(p)}${keepFunction(p)}`;
}

/**
 * Declares the place of a lane: its band and role, its row in the workgroup, and the vec4s of the row that it takes.
 * Subgroups hold neighbouring invocations in order, which the probe of a device (probe.ts) tests.
 */
export const lanePlace = (p: MatrixShaderPlan): string => `
  let band = subgroup / ROLES;
  let role = ${p.roles === 1 ? '0u' : 'subgroup % ROLES'};
  // Computed from the index in the workgroup instead of that in the subgroup: the compiler knows its bounds, so
  // accesses need no clamps.
  let laneBand = lid / (LANES * ROLES);
  let bandRow = lid % LANES / ROW_LANES;
  let laneRow = laneBand * BAND_ROWS + bandRow;
  let laneShare = ${p.roles === 1 ? '' : 'lid / LANES % ROLES * ROW_LANES + '}lid % ROW_LANES;
  let scoreAt = bandRow * SCORE_STRIDE + laneShare;
  let weightAt = bandRow * WEIGHT_STRIDE + laneShare;`;

/** WGSL for the index of the vec4u where row `row` of a head begins in a copy. */
export function copyAt(p: MatrixShaderPlan, {name}: Operand, head: string, row: string): string {
  const length = name === 'k' || name === 'v' ? 'u.Sk' : 'u.Sq';
  return `(${head} * ${paddedRows(length)} + ${row}) * ${unitsOf(p)}u`;
}

/**
 * WGSL for the element after a tensor's copied heads that describes the heads of key head `bhkv` (float16_copies.ts).
 */
function factsOf(p: MatrixShaderPlan, {name}: Operand): string {
  const [length, heads] = name === 'k' || name === 'v' ? ['u.Sk', 'u.Hkv'] : ['u.Sq', 'u.H'];
  return `${name}[u.B * ${heads} * ${paddedRows(length)} * ${unitsOf(p)}u + bhkv]`;
}

/** WGSL for the factor that undoes the scale of a copy, for the heads of key head `bhkv`. */
export const factorOf = (p: MatrixShaderPlan, operand: Operand): string => `bitcast<f32>(${factsOf(p, operand)}.x)`;

/** WGSL for whether the copies of the heads of key head `bhkv` hold infinite or NaN numbers. */
export const hasNotFinite = (p: MatrixShaderPlan, operand: Operand): string => `${factsOf(p, operand)}.y != 0u`;

/** Declares what a workgroup keeps in forward and dq: a block of queries of a head. */
export function queriesOfWorkgroup(p: MatrixShaderPlan): string {
  const {q, k, v, dOut} = operandsOf(p);
  const rows = p.pass === 'forward' ? [q] : [q, dOut];
  return `${rowBlockOfWorkgroup(p)}
  let bhkv = b * u.Hkv + h / u.groupSize;
${rows.map((row) => `  let ${row.name}Band = ${copyAt(p, row, 'bh', 'qFirst + band * BAND_ROWS')};`).join('\n')}
${[k, v].map((col) => `  let ${col.name}Head = ${copyAt(p, col, 'bhkv', '0u')};`).join('\n')}`;
}

/**
 * Declares `cleared`: eight float16 numbers, with 0 in place of infinite and NaN numbers. A weight of 0 does not hide
 * them.
 */
const CLEAR_FUNCTION = `
fn cleared(x: vec4u) -> vec4u {
  let low = (x & vec4u(0x7c00u)) == vec4u(0x7c00u);
  let high = (x & vec4u(0x7c000000u)) == vec4u(0x7c000000u);
  return x & (select(vec4u(0xffffu), vec4u(), low) | select(vec4u(0xffff0000u), vec4u(), high));
}
`;

/** vec4us of a column tile that a thread copies. */
const tripsOf = (p: MatrixShaderPlan): number => Math.ceil((p.cols * unitsOf(p)) / p.threads);

/** Skips the threads that have nothing to copy in trip t. */
function guarded(p: MatrixShaderPlan, t: number, line: string): string {
  const total = p.cols * unitsOf(p);
  return (t + 1) * p.threads > total ? `if (lid + ${t * p.threads}u < ${total}u) { ${line} }` : line;
}

/** Declares the registers that hold a thread's share of a tile on its way to workgroup memory. */
export const declareFetched = (p: MatrixShaderPlan, name: string): string =>
  unroll(tripsOf(p), (t) => `var ${name}${t} = vec4u();`);

/** Fetches the tile of an operand that starts at row `first` of the head at `${name}Head`. */
export function fetchTile(p: MatrixShaderPlan, fetched: string, {name}: Operand, first: string): string {
  const line = (t: number): string =>
    `${fetched}${t} = ${name}[${name}Head + ${first} * ${unitsOf(p)}u + lid + ${t * p.threads}u];`;
  return unroll(tripsOf(p), (t) => guarded(p, t, line(t)));
}

/** WGSL for the place in a column tile where a thread stores the vec4u of trip t. */
function placeInTile(p: MatrixShaderPlan, t: number): string {
  const units = unitsOf(p);
  return `(lid + ${t * p.threads}u) / ${units}u * ${tileStride(p) / 8}u + (lid + ${t * p.threads}u) % ${units}u`;
}

/** Writes the fetched vec4us to column tile 0 or 1. */
export const keepTile = (p: MatrixShaderPlan, fetched: string, tile: 0 | 1): string =>
  unroll(tripsOf(p), (t) => guarded(p, t, `columns[${tile}][${placeInTile(p, t)}] = ${fetched}${t};`));

/** Replaces infinite and NaN numbers in the fetched vec4us by 0. */
export const clearFetched = (p: MatrixShaderPlan, fetched: string): string =>
  unroll(tripsOf(p), (t) => `${fetched}${t} = cleared(${fetched}${t});`);

/**
 * Replaces infinite and NaN numbers in column tile 0 or 1 by 0. Each thread handles the vec4us that it has stored
 * there.
 */
export const clearTile = (p: MatrixShaderPlan, tile: 0 | 1): string =>
  unroll(tripsOf(p), (t) =>
    guarded(p, t, `columns[${tile}][${placeInTile(p, t)}] = cleared(columns[${tile}][${placeInTile(p, t)}]);`),
  );

/** Moves the fetched vec4us to other registers. */
export const moveFetched = (p: MatrixShaderPlan, from: string, to: string): string =>
  unroll(tripsOf(p), (t) => `${to}${t} = ${from}${t};`);

const rowName = (half: number, h: number, d: number): string => `row_${half}_${h}_${d}`;

/**
 * Declares a band's rows as matrices, which stay in registers: rows of the first operand for role 0, of the second for
 * role 1.
 */
export function holdRows(p: MatrixShaderPlan, first: Operand, second: Operand = first): string {
  const {M, K} = p.matrix;
  const each = (line: (half: number, h: number, d: number) => string): string =>
    unroll(p.halvesPerNumber, (half) => unroll(heights(p), (h) => unroll(p.channels / K, (d) => line(half, h, d))));
  const load =
    ({name}: Operand) =>
    (half: number, h: number, d: number): string => {
      const offset = h * M * unitsOf(p) + half * partUnits(p) + (d * K) / 8;
      return `${rowName(half, h, d)} = subgroupMatrixLoad<${left(p)}, row_major>(&${name}, ${name}Band + ${offset}u, ${unitsOf(p)}u);`;
    };
  return `${each((half, h, d) => `var ${rowName(half, h, d)}: ${left(p)};`)}
${p.roles === 1 ? each(load(first)) : `if (role == 0u) {\n${each(load(first))}\n} else {\n${each(load(second))}\n}`}`;
}

/** A matrix of K channels by N columns, of column tile `role`. */
function columnMatrix(p: MatrixShaderPlan, half: Half, strip: number, d: number): string {
  const {N, K} = p.matrix;
  const stride = tileStride(p) / 8;
  const offset = strip * N * stride + half * partUnits(p) + (d * K) / 8;
  return `subgroupMatrixLoad<${right(p)}, col_major>(&columns[role], ${offset}u, ${stride}u)`;
}

/** Stores rows · columns of the band to the scores of the subgroup's role. */
export function multiply(p: MatrixShaderPlan): string {
  const {N, M, K} = p.matrix;
  const strips = p.cols / N;
  const sum = (h: number, s: number): string => `s_${h}_${s}`;
  const products = (h: number, s: number, d: number): string =>
    scoreProducts(p)
      .map(([a, b]) => `${sum(h, s)} = subgroupMatrixMultiplyAccumulate(${rowName(a, h, d)}, right${b}, ${sum(h, s)});`)
      .join('\n');
  const step = (s: number, d: number): string => `{
${unroll(p.halvesPerNumber, (half) => `let right${half} = ${columnMatrix(p, half as Half, s, d)};`)}
${unroll(heights(p), (h) => products(h, s, d))}
}`;
  const store = (h: number, s: number): string =>
    `subgroupMatrixStore<row_major>(&scores[role * BANDS + band], ${h * M}u * SCORE_STRIDE + ${(s * N) / 4}u, ${sum(h, s)}, SCORE_STRIDE);`;
  return `{
${unroll(heights(p), (h) => unroll(strips, (s) => `var ${sum(h, s)} = ${result(p)}();`))}
${unroll(p.channels / K, (d) => unroll(strips, (s) => step(s, d)))}
${unroll(heights(p), (h) => unroll(strips, (s) => store(h, s)))}
}`;
}

const accumulatorName = (h: number, d: number): string => `acc_${h}_${d}`;

/**
 * Declares the accumulator with initial values: without them, matrix variables are not zeros in every version of Dawn.
 */
export const declareAccumulator = (p: MatrixShaderPlan): string =>
  unroll(heights(p), (h) => unroll(accumulated(p), (d) => `var ${accumulatorName(h, d)} = ${result(p)}();`));

/**
 * Adds weights · columns of the band to the accumulator. All arguments are WGSL: the index of the weights, the index of
 * the column tile, and the place of the first channel in its rows, in vec4us.
 */
export function accumulate(p: MatrixShaderPlan, weightTile: string, tile: string, channel = '0u'): string {
  const {M, N, K} = p.matrix;
  const stride = tileStride(p) / 8;
  const weight = (half: number, h: number, s: number): string =>
    `subgroupMatrixLoad<${left(p)}, row_major>(&weights[${weightTile} * BANDS + band], ${half * p.bandRows + h * M}u * WEIGHT_STRIDE + ${(s * K) / 4}u, WEIGHT_STRIDE)`;
  const channelMatrix = (half: number, s: number, d: number): string =>
    `subgroupMatrixLoad<${right(p)}, row_major>(&columns[${tile}], ${channel} + ${s * K * stride + half * partUnits(p) + (d * N) / 8}u, ${stride}u)`;
  const products = (h: number, d: number): string =>
    PRODUCTS[p.halvesPerNumber]
      .map(
        ([a, b]) =>
          `${accumulatorName(h, d)} = subgroupMatrixMultiplyAccumulate(w_${a}_${h}, right${b}, ${accumulatorName(h, d)});`,
      )
      .join('\n');
  const step = (s: number, d: number): string => `{
${unroll(p.halvesPerNumber, (half) => `let right${half} = ${channelMatrix(half, s, d)};`)}
${unroll(heights(p), (h) => products(h, d))}
}`;
  return unroll(
    p.cols / K,
    (s) => `{
${unroll(p.halvesPerNumber, (half) => unroll(heights(p), (h) => `let w_${half}_${h} = ${weight(half, h, s)};`))}
${unroll(accumulated(p), (d) => step(s, d))}
}`,
  );
}

/** Calls `line` for each vec4 of a lane's row: its index i, and WGSL for its first column in the tile. */
export function eachQuad(p: MatrixShaderPlan, line: (i: number, column: string) => string): string {
  const lanes = p.rowLanes * p.roles;
  return unroll(p.cols / 4 / lanes, (i) => line(i, `4u * (laneShare + ${i * lanes}u)`));
}

/** WGSL for vec4 i of a lane's row in the scores of a role. */
export const quadOf = (p: MatrixShaderPlan, role: 0 | 1, i: number): string =>
  `scores[${role === 0 ? '' : 'BANDS + '}laneBand][scoreAt + ${i * p.rowLanes * p.roles}u]`;

/** Writes vec4 i of a lane's row to weights 0 or 1, part by part. */
export function putWeights(p: MatrixShaderPlan, tile: 0 | 1, i: number, value: string): string {
  const at = (half: Half): string =>
    `weights[${tile === 0 ? '' : 'BANDS + '}laneBand][${half * p.bandRows}u * WEIGHT_STRIDE + weightAt + ${i * p.rowLanes * p.roles}u]`;
  if (p.halvesPerNumber === 1) return `${at(0)} = vec4<f16>(${value});`;
  return `{ let w = ${value}; let high = highOf(w); ${at(0)} = vec4<f16>(high); ${at(1)} = vec4<f16>(w - high); }`;
}

/** In partial tiles, replaces the numbers in vec4s x0, x1, ... of a lane's row that the mask hides by `masked`. */
export function maskQuads(p: MatrixShaderPlan, masked: string): string {
  return `if (partial) {
${eachQuad(
  p,
  (i, column) => `  {
    let j = vec4i(i32(kFirst + ${column})) + vec4i(0, 1, 2, 3);
    x${i} = select(vec4f(${masked}), x${i}, visible(vec4i(i32(qFirst + laneRow)), j, boundsOfKeys(maskHead, u32(j.x))));
  }`,
)}
}`;
}

/**
 * Calls `run` for each run of accumulated blocks that go through the scores array together: as many channels as a tile
 * has columns.
 */
function eachRun(p: MatrixShaderPlan, run: (blocks: number[], index: number) => string): string {
  const perRun = p.cols / p.matrix.N;
  const blocks = accumulated(p);
  return unroll(Math.ceil(blocks / perRun), (index) =>
    run(
      Array.from({length: Math.min(perRun, blocks - index * perRun)}, (_, b) => index * perRun + b),
      index,
    ),
  );
}

/** WGSL for the arguments that locate matrix (h, b) of a run. */
const runPlace = (p: MatrixShaderPlan, h: number, b: number): string =>
  `&scores[role * BANDS + band], ${h * p.matrix.M}u * SCORE_STRIDE + ${(b * p.matrix.N) / 4}u`;

const storeRun = (p: MatrixShaderPlan, blocks: number[]): string =>
  unroll(heights(p), (h) =>
    blocks
      .map((d, b) => `subgroupMatrixStore<row_major>(${runPlace(p, h, b)}, ${accumulatorName(h, d)}, SCORE_STRIDE);`)
      .join('\n'),
  );

/** The tensor that an accumulator is stored to. */
export interface Target extends Operand {
  /** WGSL for the factor of row r of the workgroup. */
  factor: string;
  /** The first channel that the accumulator holds. */
  channel: number;
}

/**
 * Stores the accumulators to the rows of their targets, which start at `first`. There is one target per role. The
 * accumulators go through the scores array, one run at a time. Sums that were flushed before are added.
 */
export function storeAccumulators(p: MatrixShaderPlan, targets: Target[], first: string, limit: string): string {
  const quads = p.cols / 4;
  const element = (t: Target, at: string, value: string, zero: string): string =>
    `${t.name}[${at}] = ${value}${flushes(p) ? ` + select(${zero}, ${t.name}[${at}], flushed)` : ''};`;
  const put = (t: Target, run: number): string => {
    const d = `(${(t.channel + run * p.cols) / 4}u + i % ${quads}u)`;
    if (elementType(t.channels) === 'vec4f') {
      return `if (${d} < ${t.channels / 4}u) { ${element(t, `at + ${d}`, 'x', 'vec4f()')} }`;
    }
    const scalar = (c: number): string =>
      `if (4u * ${d} + ${c}u < ${t.channels}u) { ${element(t, `at + 4u * ${d} + ${c}u`, `x[${c}]`, '0.0')} }`;
    return unroll(4, scalar);
  };
  return eachRun(
    p,
    (blocks, run) => `workgroupBarrier();
${storeRun(p, blocks)}
workgroupBarrier();
for (var i = lid; i < ROWS * ${quads}u; i += THREADS) {
  let r = i / ${quads}u;
  if (${first} + r < ${limit} && i % ${quads}u < ${(blocks.length * p.matrix.N) / 4}u) {
${targets
  .map(
    (t, role) => `    {
      let at = ${t.name}Base + (${first} + r) * u.${t.stride}Row;
      let x = scores[${role}u * BANDS + r / BAND_ROWS][r % BAND_ROWS * SCORE_STRIDE + i % ${quads}u] * ${t.factor};
      ${put(t, run)}
    }`,
  )
  .join('\n')}
  }
}`,
  );
}

/**
 * Adds the infinite and NaN numbers of `col`, which were cleared in partial tiles, to the rows of `target` that see
 * them. They are rare, so this is a plain loop over columns, after the target has been stored.
 *
 * @param columns WGSL for the first column of the visited tiles and one past the last.
 * @param rows WGSL for the target's first row and one past its last.
 * @param sees WGSL for whether row `row` sees column `c`.
 */
export function addNotFinite(
  p: MatrixShaderPlan,
  col: Operand,
  target: Operand,
  columns: [first: string, end: string],
  rows: [first: string, end: string],
  sees: string,
): string {
  const quads = Math.ceil(target.channels / 4);
  const put =
    elementType(target.channels) === 'vec4f'
      ? `${target.name}[at + d] = select(${target.name}[at + d], ${target.name}[at + d] + sum, met);`
      : unroll(
          4,
          (c) =>
            `if (4u * d + ${c}u < ${target.channels}u && met[${c}]) { ${target.name}[at + 4u * d + ${c}u] += sum[${c}]; }`,
        );
  return `
storageBarrier();
workgroupBarrier();
for (var i = lid; i < ROWS * ${quads}u; i += THREADS) {
  let row = ${rows[0]} + i / ${quads}u;
  let d = i % ${quads}u;
  if (row < ${rows[1]}) {
    var sum = vec4f();
    var met = vec4<bool>();
    for (var c = ${columns[0]}; c < ${columns[1]}; c++) {
      let eight = ${col.name}[${col.name}Head + c * ${unitsOf(p)}u + d / 2u];
      let x = vec4f(bitcast<vec4<f16>>(select(eight.xy, eight.zw, d % 2u == 1u)));
      let notFinite = isNotFinite(x);
      if (any(notFinite) && ${sees}) {
        sum = select(sum, sum + x, notFinite);
        met = met | notFinite;
      }
    }
    let at = ${target.name}Base + row * u.${target.stride}Row;
    ${put}
  }
}`;
}

/**
 * Columns after which a sum of two parts is stored and the accumulator is cleared. Matrix units truncate when they
 * accumulate, so long sums drift towards zero.
 */
const FLUSH_COLUMNS = 512;

/**
 * Whether a pass flushes its accumulators. Sums of one part are as exact as their float16 weights at any length, and
 * the code for flushing costs speed even where it never runs.
 */
const flushes = (p: MatrixShaderPlan): boolean => p.pass !== 'forward' && p.halvesPerNumber === 2;

/** Stores the accumulators and clears them once enough columns have been added up. It runs after each tile. */
export function flushAccumulators(p: MatrixShaderPlan, targets: Target[], first: string, limit: string): string {
  if (!flushes(p)) return '';
  return `
added += 1u;
if (added == ${FLUSH_COLUMNS / p.cols}u) {
${storeAccumulators(p, targets, first, limit)}
${unroll(heights(p), (h) => unroll(accumulated(p), (d) => `${accumulatorName(h, d)} = ${result(p)}();`))}
  added = 0u;
  flushed = true;
}`;
}

/** Declares the variables of `flushAccumulators`. */
export const declareFlushed = (p: MatrixShaderPlan): string =>
  flushes(p) ? 'var added = 0u;\nvar flushed = false;' : '';

/** Multiplies the accumulator's rows by `shrink` of their lanes. Each run takes a trip through the scores array. */
export function scaleAccumulator(p: MatrixShaderPlan, shrink: string): string {
  return eachRun(
    p,
    (blocks) => `${storeRun(p, blocks)}
workgroupBarrier();
${eachQuad(p, (i) => `${quadOf(p, 0, i)} *= ${shrink};`)}
workgroupBarrier();
${unroll(heights(p), (h) =>
  blocks
    .map(
      (d, b) =>
        `${accumulatorName(h, d)} = subgroupMatrixLoad<${result(p)}, row_major>(${runPlace(p, h, b)}, SCORE_STRIDE);`,
    )
    .join('\n'),
)}
workgroupBarrier();`,
  );
}
