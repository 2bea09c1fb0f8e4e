/**
 * @file The steps that the passes on subgroup matrices share (chromium-experimental-subgroup-matrix: tensor cores and their like, which
 * read float16 and accumulate in float32). Products, tiles and mask are those of forward.ts and backward.ts. Matrices are opaque, so
 * scores go through workgroup memory to become weights.
 *
 * A workgroup keeps `rows` rows; each of its subgroups owns a *band* of them and walks over the blocks of columns with the others, which share
 * the tiles in workgroup memory. `rowLanes` lanes own a row of a band and take its vec4s in turn: lane part i has vec4s i, i + rowLanes, ...
 * Offsets and strides of matrices count elements of the array that they lie in: vec4u or vec4<f16> or vec4f.
 */
import {paddedChannels, scoreStride, tileStride, weightStride, type MatrixPlan} from '../../matrix_plan.js';
import {MAP_BLOCK} from '../../plan.js';
import {HIGH_FUNCTION, paddedRows, rowUnits} from './halves.js';
import {declare, declareConstants, elementType, unroll, type Binding} from './header.js';
import {keepFunction, visibleFunction, type Operand} from './steps.js';
import {classifyFunction, TILE_BITS} from './tiles.js';

/** The high half of a number, and what that leaves. */
export type Part = 0 | 1;

/** Products of parts that make up a product, without the last, which is below float32's own rounding. */
const PRODUCTS: Record<1 | 2, [left: Part, right: Part][]> = {
  1: [[0, 0]],
  2: [
    [0, 0],
    [0, 1],
    [1, 0],
  ],
};

export const left = ({matrix: {M, K}}: MatrixPlan): string => `subgroup_matrix_left<f16, ${K}, ${M}>`;
export const right = ({matrix: {N, K}}: MatrixPlan): string => `subgroup_matrix_right<f16, ${N}, ${K}>`;
export const result = ({matrix: {M, N}}: MatrixPlan): string => `subgroup_matrix_result<f32, ${N}, ${M}>`;

type Name = 'q' | 'k' | 'v' | 'dOut';

export function operands(p: MatrixPlan): Record<Name, Operand> {
  const [query, key] = p.pass === 'dkdv' ? (['col', 'row'] as const) : (['row', 'col'] as const);
  return {
    q: {name: 'q', stride: 'q', channels: p.D, side: query},
    k: {name: 'k', stride: 'k', channels: p.D, side: key},
    v: {name: 'v', stride: 'v', channels: p.Dv, side: key},
    dOut: {name: 'dOut', stride: 'o', channels: p.Dv, side: query},
  };
}

/** Storage bindings: float16 copies (halves.ts), then as in the passes on vectors. */
export function matrixBindings(p: MatrixPlan): Binding[] {
  const copies = p.pass === 'forward' ? (['q', 'k', 'v'] as const) : (['q', 'k', 'v', 'dOut'] as const);
  const results = {
    forward: [
      ['out', elementType(p.Dv)],
      ['lse', 'f32'],
    ],
    dq: [['dq', elementType(p.D)]],
    dkdv: [
      ['dk', elementType(p.D)],
      ['dv', elementType(p.Dv)],
    ],
  }[p.pass];
  return [
    ...copies.map((name): Binding => ({name, type: 'vec4u', access: 'read'})),
    ...(p.pass === 'forward' ? [] : [{name: 'rowStats', type: 'vec2f', access: 'read'} as const]),
    ...(p.intervals ? [{name: 'mask', type: 'vec4i', access: 'read'} as const] : []),
    ...results.map(([name, type]): Binding => ({name, type, access: 'read_write'})),
  ];
}

/** vec4u elements of a copied row. */
export const unitsOf = (p: MatrixPlan, channels: number): number =>
  rowUnits({padded: paddedChannels(channels, p.matrix), parts: p.parts});

/** Blocks of channels of one part: N wide as results and right matrices of `accumulate`. */
const resultBlocks = (p: MatrixPlan, channels: number): number => paddedChannels(channels, p.matrix) / p.matrix.N;
/** Blocks of channels of one part: K deep in the products of rows and columns. */
const depthBlocks = (p: MatrixPlan, channels: number): number => paddedChannels(channels, p.matrix) / p.matrix.K;
/** Matrices above each other in a band. */
const heights = (p: MatrixPlan): number => p.bandRows / p.matrix.M;

const firstOperand = (p: MatrixPlan): Operand => (p.pass === 'dkdv' ? operands(p).q : operands(p).k);
const secondOperand = (p: MatrixPlan): Operand => (p.pass === 'dkdv' ? operands(p).dOut : operands(p).v);

/** Declares the workgroup arrays; `workgroupArrays` in src/matrix_plan.ts counts their bytes. */
function declareShared(p: MatrixPlan): string {
  const tile = ({name, channels}: Operand): string =>
    `var<workgroup> ${name}Tile: array<vec4u, ${(p.cols * tileStride(p, channels)) / 8}>;`;
  const scores = (name: string): string => `var<workgroup> ${name}: array<vec4f, ${(p.rows * scoreStride(p)) / 4}>;`;
  const weights = (name: string): string =>
    `var<workgroup> ${name}: array<vec4<f16>, ${(p.parts * p.rows * weightStride(p)) / 4}>;`;
  return [
    tile(firstOperand(p)),
    tile(secondOperand(p)),
    scores('scores'),
    ...(p.pass === 'forward' ? [] : [scores('products')]),
    weights('weights'),
    ...(p.pass === 'dkdv' ? [weights('scoreGradients')] : []),
    '',
  ].join('\n');
}

export function preamble(p: MatrixPlan): string {
  const values = {
    ROWS: p.rows,
    COLS: p.cols,
    BLOCK_Q: p.blockQ,
    BLOCK_K: p.blockK,
    MAP_SPAN: p.blockK / MAP_BLOCK,
    THREADS: p.threads,
    LANES: p.matrix.lanes,
    ROW_LANES: p.rowLanes,
    BAND_ROWS: p.bandRows,
    SCORE_STRIDE: scoreStride(p) / 4,
    WEIGHT_STRIDE: weightStride(p) / 4,
  };
  return `enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
requires subgroup_id;
${declare(matrixBindings(p))}${declareConstants(values)}${declareShared(p)}${TILE_BITS}
${p.parts === 2 ? HIGH_FUNCTION : ''}${classifyFunction(p)}${visibleFunction(p)}${keepFunction(p)}`;
}

/** The entry point up to who a lane is: its band, its row there, and which of the row's vec4s it takes. */
export const START = `
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32, @builtin(subgroup_id) band: u32, @builtin(subgroup_invocation_id) lane: u32) {
  let workgroup = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (workgroup >= u.workEnd) { return; }
  let laneRow = band * BAND_ROWS + lane / ROW_LANES;
  let part = lane % ROW_LANES;
  let scoreAt = laneRow * SCORE_STRIDE + part;
  let weightAt = laneRow * WEIGHT_STRIDE + part;`;

/** WGSL for the element of a copy where row `row` of its head begins. */
export function copyAt(p: MatrixPlan, {name, channels}: Operand, head: string, row: string): string {
  const length = name === 'k' || name === 'v' ? 'u.Sk' : 'u.Sq';
  return `(${head} * ${paddedRows(length)} + ${row}) * ${unitsOf(p, channels)}u`;
}

/** WGSL for the factor that undoes the scale of a copy, for the heads of key head `bhkv`. */
export function factorOf(p: MatrixPlan, {name, channels}: Operand): string {
  const [length, heads] = name === 'k' || name === 'v' ? ['u.Sk', 'u.Hkv'] : ['u.Sq', 'u.H'];
  return `bitcast<f32>(${name}[u.B * ${heads} * ${paddedRows(length)} * ${unitsOf(p, channels)}u + bhkv].x)`;
}

/** Copies the tile of `operand` whose rows start at `first` of the head that `${name}Head` begins at. */
export function loadTile(p: MatrixPlan, {name, channels}: Operand, first: string): string {
  const units = unitsOf(p, channels);
  const total = p.cols * units;
  const trips = Math.ceil(total / p.threads);
  const guard = (t: number, line: string): string =>
    (t + 1) * p.threads > total ? `if (lid + ${t * p.threads}u < ${total}u) { ${line} }` : line;
  const at = (t: number): string =>
    `(lid + ${t * p.threads}u) / ${units}u * ${tileStride(p, channels) / 8}u + (lid + ${t * p.threads}u) % ${units}u`;
  return `{
let source = ${name}Head + ${first} * ${units}u + lid;
${unroll(trips, (t) => `var x${t}: vec4u; ${guard(t, `x${t} = ${name}[source + ${t * p.threads}u];`)}`)}
${unroll(trips, (t) => guard(t, `${name}Tile[${at(t)}] = x${t};`))}
}`;
}

const fragment = (name: string, part: Part, height: number, depth: number): string =>
  `${name}_${part}_${height}_${depth}`;

/** Declares a band's rows of `operand` as matrices, which stay in registers. */
export function holdRows(p: MatrixPlan, row: Operand): string {
  return eachRowMatrix(
    p,
    row,
    (part, h, d) => `let ${fragment(row.name, part, h, d)} = ${rowMatrix(p, row, part, h, d)};`,
  );
}

function eachRowMatrix(p: MatrixPlan, row: Operand, line: (part: Part, h: number, d: number) => string): string {
  return unroll(p.parts, (part) =>
    unroll(heights(p), (h) => unroll(depthBlocks(p, row.channels), (d) => line(part as Part, h, d))),
  );
}

function rowMatrix(p: MatrixPlan, {name, channels}: Operand, part: Part, h: number, d: number): string {
  const units = unitsOf(p, channels);
  const {M, K} = p.matrix;
  const offset = h * M * units + (part * units) / p.parts + (d * K) / 8;
  return `subgroupMatrixLoad<${left(p)}, row_major>(&${name}, ${name}Band + ${offset}u, ${units}u)`;
}

/** A matrix of a column tile: `depth` channels by N columns. */
function columnMatrix(p: MatrixPlan, {name, channels}: Operand, part: Part, strip: number, d: number): string {
  const {N, K} = p.matrix;
  const stride = tileStride(p, channels) / 8;
  const offset = strip * N * stride + partUnits(p, channels) * part + (d * K) / 8;
  return `subgroupMatrixLoad<${right(p)}, col_major>(&${name}Tile, ${offset}u, ${stride}u)`;
}

/** A matrix of a column tile: K columns by N channels. */
function channelMatrix(p: MatrixPlan, {name, channels}: Operand, part: Part, strip: number, d: number): string {
  const {N, K} = p.matrix;
  const stride = tileStride(p, channels) / 8;
  const offset = strip * K * stride + partUnits(p, channels) * part + (d * N) / 8;
  return `subgroupMatrixLoad<${right(p)}, row_major>(&${name}Tile, ${offset}u, ${stride}u)`;
}

const partUnits = (p: MatrixPlan, channels: number): number => unitsOf(p, channels) / p.parts;

/** Rows · columns of the band to its part of the workgroup array `target`. `held`: by `holdRows`. */
export function multiply(p: MatrixPlan, target: string, row: Operand, col: Operand, held = true): string {
  const {N, M} = p.matrix;
  const strips = p.cols / N;
  const sum = (h: number, s: number): string => `s_${h}_${s}`;
  const leftOf = (part: Part, h: number, d: number): string =>
    held ? fragment(row.name, part, h, d) : `${fragment('row', part, h, d)}`;
  const step = (d: number): string => `{
${held ? '' : unroll(p.parts, (part) => unroll(heights(p), (h) => `let ${leftOf(part as Part, h, d)} = ${rowMatrix(p, row, part as Part, h, d)};`))}
${unroll(
  strips,
  (s) => `{
${unroll(p.parts, (part) => `let right${part} = ${columnMatrix(p, col, part as Part, s, d)};`)}
${unroll(heights(p), (h) => PRODUCTS[p.parts].map(([a, b]) => `${sum(h, s)} = subgroupMatrixMultiplyAccumulate(${leftOf(a, h, d)}, right${b}, ${sum(h, s)});`).join('\n'))}
}`,
)}
}`;
  return `{
${unroll(heights(p), (h) => unroll(strips, (s) => `var ${sum(h, s)} = ${result(p)}();`))}
${unroll(depthBlocks(p, row.channels), step)}
${unroll(heights(p), (h) =>
  unroll(
    strips,
    (s) =>
      `subgroupMatrixStore<row_major>(&${target}, (band * BAND_ROWS + ${h * M}u) * SCORE_STRIDE + ${(s * N) / 4}u, ${sum(h, s)}, SCORE_STRIDE);`,
  ),
)}
}`;
}

const accumulator = (name: string, h: number, d: number): string => `${name}_${h}_${d}`;

function eachAccumulator(p: MatrixPlan, channels: number, line: (h: number, d: number) => string): string {
  return unroll(heights(p), (h) => unroll(resultBlocks(p, channels), (d) => line(h, d)));
}

export const declareAccumulator = (p: MatrixPlan, name: string, channels: number): string =>
  eachAccumulator(p, channels, (h, d) => `var ${accumulator(name, h, d)} = ${result(p)}();`);

/** Adds weights · columns of the band, weights from the workgroup array `weights`. */
export function accumulate(p: MatrixPlan, name: string, weights: string, col: Operand): string {
  const {M, K} = p.matrix;
  const weight = (part: Part, h: number, s: number): string =>
    `subgroupMatrixLoad<${left(p)}, row_major>(&${weights}, (${part * p.rows}u + band * BAND_ROWS + ${h * M}u) * WEIGHT_STRIDE + ${(s * K) / 4}u, WEIGHT_STRIDE)`;
  const multiplyBy = (d: number): string => `{
${unroll(p.parts, (part) => `let right${part} = RIGHT${part}_${d};`)}
${unroll(heights(p), (h) =>
  PRODUCTS[p.parts]
    .map(
      ([a, b]) =>
        `${accumulator(name, h, d)} = subgroupMatrixMultiplyAccumulate(w_${a}_${h}, right${b}, ${accumulator(name, h, d)});`,
    )
    .join('\n'),
)}
}`;
  return unroll(
    p.cols / K,
    (s) => `{
${unroll(p.parts, (part) => unroll(heights(p), (h) => `let w_${part}_${h} = ${weight(part as Part, h, s)};`))}
${unroll(resultBlocks(p, col.channels), (d) =>
  multiplyBy(d).replace(/RIGHT(\d)_\d+/g, (_, part: string) => channelMatrix(p, col, Number(part) as Part, s, d)),
)}
}`,
  );
}

/** Calls `line` for each vec4 of a lane's row: its index i, and WGSL for its first column in the tile. */
export const eachQuad = (p: MatrixPlan, line: (i: number, column: string) => string): string =>
  unroll(p.cols / 4 / p.rowLanes, (i) => line(i, `4u * (part + ${i * p.rowLanes}u)`));

/** WGSL for vec4 i of a lane's row in a workgroup array of scores. */
export const quadOf = (p: MatrixPlan, array: string, i: number): string => `${array}[scoreAt + ${i * p.rowLanes}u]`;

/** Writes vec4 i of a lane's row to a workgroup array of weights, part by part. */
export function putWeights(p: MatrixPlan, array: string, i: number, value: string): string {
  const at = (part: Part): string => `${array}[weightAt + ${part * p.rows}u * WEIGHT_STRIDE + ${i * p.rowLanes}u]`;
  if (p.parts === 1) return `${at(0)} = vec4<f16>(${value});`;
  return `{ let w = ${value}; let high = highOf(w); ${at(0)} = vec4<f16>(high); ${at(1)} = vec4<f16>(w - high); }`;
}

/** In partial tiles: vec4s `name`i of a lane's row become `masked` where the mask hides them. */
export function maskQuads(p: MatrixPlan, name: string, masked: string): string {
  return `if (partial) {
${eachQuad(
  p,
  (i, column) => `  {
    let j = vec4i(i32(kFirst + ${column})) + vec4i(0, 1, 2, 3);
    ${name}${i} = select(vec4f(${masked}), ${name}${i}, visible(vec4i(i32(qFirst + laneRow)), j, boundsOfKeys(maskHead, u32(j.x))));
  }`,
)}
}`;
}

/**
 * Stores the accumulator to the rows of `target` that start at `first`, times `factor`, WGSL that may name the row r of the workgroup. It goes through
 * `scores`, as many channels at a time as that has columns.
 */
export function storeAccumulator(
  p: MatrixPlan,
  name: string,
  target: Operand,
  first: string,
  limit: string,
  factor: string,
): string {
  const {N, M} = p.matrix;
  const {channels} = target;
  const perRun = p.cols / N;
  const blocks = resultBlocks(p, channels);
  const vector = elementType(channels) === 'vec4f';
  const put = (run: number): string => {
    const d = `(${(run * p.cols) / 4}u + i % ${p.cols / 4}u)`;
    if (vector) return `if (${d} < ${channels / 4}u) { ${target.name}[at + ${d}] = x; }`;
    return unroll(
      4,
      (c) => `if (4u * ${d} + ${c}u < ${channels}u) { ${target.name}[at + 4u * ${d} + ${c}u] = x[${c}]; }`,
    );
  };
  return unroll(
    Math.ceil(blocks / perRun),
    (run) => `workgroupBarrier();
${unroll(heights(p), (h) =>
  unroll(
    Math.min(perRun, blocks - run * perRun),
    (b) =>
      `subgroupMatrixStore<row_major>(&scores, (band * BAND_ROWS + ${h * M}u) * SCORE_STRIDE + ${(b * N) / 4}u, ${accumulator(name, h, run * perRun + b)}, SCORE_STRIDE);`,
  ),
)}
workgroupBarrier();
for (var i = lid; i < ${(p.rows * p.cols) / 4}u; i += THREADS) {
  let r = i / ${p.cols / 4}u;
  if (${first} + r < ${limit}) {
    let at = ${target.name}Base + (${first} + r) * u.${target.stride}Row;
    let x = scores[r * SCORE_STRIDE + i % ${p.cols / 4}u] * ${factor};
    ${put(run)}
  }
}`,
  );
}

/** Multiplies the accumulator's rows by `shrink` of their lanes; a trip through `scores` for each run of its channels. */
export function scaleAccumulator(p: MatrixPlan, name: string, channels: number, shrink: string): string {
  const {N, M} = p.matrix;
  const perRun = p.cols / N;
  const blocks = resultBlocks(p, channels);
  const place = (h: number, b: number): string => `(band * BAND_ROWS + ${h * M}u) * SCORE_STRIDE + ${(b * N) / 4}u`;
  return unroll(Math.ceil(blocks / perRun), (run) => {
    const each = (line: (h: number, b: number) => string): string =>
      unroll(heights(p), (h) => unroll(Math.min(perRun, blocks - run * perRun), (b) => line(h, b)));
    return `${each((h, b) => `subgroupMatrixStore<row_major>(&scores, ${place(h, b)}, ${accumulator(name, h, run * perRun + b)}, SCORE_STRIDE);`)}
workgroupBarrier();
${eachQuad(p, (i) => `${quadOf(p, 'scores', i)} *= ${shrink};`)}
workgroupBarrier();
${each((h, b) => `${accumulator(name, h, run * perRun + b)} = subgroupMatrixLoad<${result(p)}, row_major>(&scores, ${place(h, b)}, SCORE_STRIDE);`)}
workgroupBarrier();`;
  });
}

/** The walk of a block of queries over its keys: what forward and dq share. */
export function queryWalk(p: MatrixPlan): string {
  const {q, k, v, dOut} = operands(p);
  const rows = p.pass === 'forward' ? [q] : [q, dOut];
  return `
  let queryBlocks = (u.Sq + BLOCK_Q - 1u) / BLOCK_Q;
  let bh = workgroup / queryBlocks;
  let qFirst = (queryBlocks - 1u - workgroup % queryBlocks) * BLOCK_Q;
  let b = bh / u.H;
  let h = bh % u.H;
  let bhkv = b * u.Hkv + h / u.groupSize;
  let maskHead = b * u.maskBatchStride + h / u.maskGroup;
${rows.map((row) => `  let ${row.name}Band = ${copyAt(p, row, 'bh', 'qFirst + band * BAND_ROWS')};`).join('\n')}
${[k, v].map((col) => `  let ${col.name}Head = ${copyAt(p, col, 'bhkv', '0u')};`).join('\n')}
  // From products of the copies to scores in powers of two.
  let toScore = ${factorOf(p, q)} * ${factorOf(p, k)} * u.scaleLog2;
  let r0 = i32(qFirst);
  let r1 = min(r0 + i32(BLOCK_Q), i32(u.Sq));
  let keyBlocks = (u.Sk + BLOCK_K - 1u) / BLOCK_K;
  let firstTile = 0u;
  let lastTile = ${p.causal ? 'u32(clamp((r1 + u.causalOffset + i32(BLOCK_K) - 1) / i32(BLOCK_K), 0, i32(keyBlocks)))' : 'keyBlocks'};`;
}
