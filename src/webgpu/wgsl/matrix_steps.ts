/**
 * @file The steps that the three passes on subgroup matrices share. These are (WebGPU's chromium-experimental-subgroup-matrix: tensor cores and their like), which read
 * float16 and accumulate in float32. The products, tiles and mask are those of forward.ts and backward.ts; what differs is that
 * matrices are opaque, so that scores go through workgroup memory to become weights.
 *
 * A workgroup keeps `rows` rows; each of its subgroups owns a *band* of 16 of them and walks the column tiles with the others, which
 * share the tiles in workgroup memory. In a band two lanes own a row: each reads, weighs and writes COLS / 2 of its scores.
 */
import {MATRIX_SIDE as SIDE, PADDED_ROWS, SUBGROUP, type PassPlan} from '../../plan.js';
import {paddedChannels} from './halves.js';
import {constants, declare, elementStride, unroll, type Binding} from './header.js';
import {visibleFunction} from './steps.js';
import {classifyFunction, TILE_BITS} from './tiles.js';

export const ENABLE = 'enable subgroups;\nenable chromium_experimental_subgroup_matrix;\n';

export const LEFT = `subgroup_matrix_left<f16, ${SIDE}, ${SIDE}>`;
export const RIGHT = `subgroup_matrix_right<f16, ${SIDE}, ${SIDE}>`;
export const RESULT = `subgroup_matrix_result<f32, ${SIDE}, ${SIDE}>`;

/** A float16 copy (halves.ts) that a pass reads. */
export interface Operand {
  name: string;
  channels: number;
  side: 'row' | 'col';
}

export const blocksOf = (channels: number): number => paddedChannels(channels) / SIDE;

export function operands(p: PassPlan): Record<'q' | 'k' | 'v' | 'dOut', Operand> {
  const [query, key] = p.pass === 'dkdv' ? (['col', 'row'] as const) : (['row', 'col'] as const);
  return {
    q: {name: 'q', channels: p.D, side: query},
    k: {name: 'k', channels: p.D, side: key},
    v: {name: 'v', channels: p.Dv, side: key},
    dOut: {name: 'dOut', channels: p.Dv, side: query},
  };
}

/** Storage bindings: rows are loaded as matrices from arrays of f16, columns copied to workgroup memory as vec4h. */
export function matrixBindings(p: PassPlan): Binding[] {
  const {q, k, v, dOut} = operands(p);
  const read = (p.pass === 'forward' ? [q, k, v] : [q, k, v, dOut]).map(({name, side}): Binding => ({
    name,
    type: side === 'row' ? 'f16' : 'vec4h',
    access: 'read',
  }));
  const results = {forward: ['out', 'lse'], dq: ['dq'], dkdv: ['dk', 'dv']}[p.pass];
  return [
    ...read,
    ...(p.pass === 'forward' ? [] : [{name: 'rowStats', type: 'vec2f', access: 'read'} as const]),
    ...(p.intervals ? [{name: 'mask', type: 'vec4i', access: 'read'} as const] : []),
    ...results.map((name): Binding => ({name, type: 'f32', access: 'read_write'})),
  ];
}

export const colOperands = (p: PassPlan): Operand[] => {
  const {q, k, v, dOut} = operands(p);
  return p.pass === 'dkdv' ? [q, dOut] : [k, v];
};

/** Declares the workgroup arrays: their sizes are those of `matrixBytes` in src/plan.ts. */
export function declareShared(p: PassPlan): string {
  const tiles = colOperands(p).map(
    ({name, channels}) => `var<workgroup> ${name}Tile: array<f16, ${p.cols * (paddedChannels(channels) + 8)}>;`,
  );
  const bands = p.rows / SIDE;
  return `${tiles.join('\n')}
// A band's scores, and its weights as float16.
var<workgroup> scratch: array<f32, ${bands * SIDE * (p.cols + 4)}>;
var<workgroup> weights: array<f16, ${bands * SIDE * (p.cols + 8)}>;
export const SCRATCH_STRIDE = ${p.cols + 4}u;
export const WEIGHTS_STRIDE = ${p.cols + 8}u;
export const LANE_COLS = ${p.cols / 2}u;
`;
}

/** Copies the tile of `operand` that starts at row `first` of its head. */
export function loadTile(p: PassPlan, {name, channels}: Operand, first: string): string {
  const quads = paddedChannels(channels) / 4;
  const trips = Math.ceil((p.cols * quads) / p.threads);
  const index = (t: number): string => `(lid + ${t * p.threads}u)`;
  const guard = (t: number, line: string): string =>
    (t + 1) * p.threads > p.cols * quads ? `if (${index(t)} < ${p.cols * quads}u) { ${line} }` : line;
  const put = (t: number): string =>
    guard(
      t,
      `let at = ${index(t)} / ${quads}u * ${4 * quads + 8}u + ${index(t)} % ${quads}u * 4u;
${unroll(4, (c) => `${name}Tile[at + ${c}u] = x${t}[${c}];`)}`,
    );
  return `{
let from = ${name}Base + ${first} * ${quads}u;
${unroll(trips, (t) => `var x${t}: vec4h; ${guard(t, `x${t} = ${name}[from + ${index(t)}];`)}`)}
${unroll(trips, (t) => `{ ${put(t)} }`)}
}`;
}

/** A matrix of the band's rows, channels 16 d.., read from its head in storage. */
export const rowMatrix = ({name, channels}: Operand, d: number): string =>
  `subgroupMatrixLoad<${LEFT}>(&${name}, ${name}Band + ${d * SIDE}u, false, ${paddedChannels(channels)}u)`;

/** A matrix of a column tile: channels down and columns across if `transposed`, else columns down and channels across. */
export const colMatrix = ({name, channels}: Operand, column: string, d: number, transposed: boolean): string => {
  const stride = paddedChannels(channels) + 8;
  return `subgroupMatrixLoad<${RIGHT}>(&${name}Tile, ${column} * ${stride}u + ${d * SIDE}u, ${transposed}, ${stride}u)`;
};

/** Scores rows · columns of the band to its scratch. `held`: the row matrices are in registers. */
export function scoresToScratch(p: PassPlan, row: Operand, col: Operand, held: boolean): string {
  const blocks = blocksOf(row.channels);
  const left = (d: number): string => (held ? `${row.name}Held${d}` : rowMatrix(row, d));
  const strips = p.cols / SIDE;
  return `{
${unroll(strips, (s) => `var s${s}: ${RESULT};`)}
${unroll(
  blocks,
  (d) => `{
  let left = ${left(d)};
${unroll(strips, (s) => `  s${s} = subgroupMatrixMultiplyAccumulate(left, ${colMatrix(col, `${s * SIDE}u`, d, true)}, s${s});`)}
}`,
)}
${unroll(strips, (s) => `subgroupMatrixStore(&scratch, scratchBase + ${s * SIDE}u, s${s}, false, SCRATCH_STRIDE);`)}
}
workgroupBarrier();`;
}

/** Adds weights · columns to the accumulators `name0`.. */
export function accumulate(p: PassPlan, name: string, col: Operand): string {
  return unroll(
    p.cols / SIDE,
    (s) => `{
  let w = subgroupMatrixLoad<${LEFT}>(&weights, weightsBase + ${s * SIDE}u, false, WEIGHTS_STRIDE);
${unroll(blocksOf(col.channels), (d) => `  ${name}${d} = subgroupMatrixMultiplyAccumulate(w, ${colMatrix(col, `${s * SIDE}u`, d, false)}, ${name}${d});`)}
}`,
  );
}

export const declareAccumulator = (name: string, channels: number): string =>
  unroll(blocksOf(channels), (d) => `var ${name}${d}: ${RESULT};`);

/** Stores the accumulator times `factor`, a strip of 16 channels at a time, for rows below `limit`. */
export function storeAccumulator(
  name: string,
  target: {name: string; stride: string; channels: number},
  limit: string,
  factor: string,
): string {
  const {channels, stride} = target;
  const unit = elementStride(channels);
  return unroll(
    blocksOf(channels),
    (d) => `workgroupBarrier();
subgroupMatrixStore(&scratch, scratchBase, ${name}${d}, false, SCRATCH_STRIDE);
workgroupBarrier();
if (bandFirst + laneRow < ${limit}) {
  let at = (${target.name}Base + (bandFirst + laneRow) * u.${stride}Row) * ${unit}u;
  for (var c = 0u; c < 8u; c++) {
    let d = ${d * SIDE}u + laneHalf * 8u + c;
    if (d < ${channels}u) { ${target.name}[at + d] = scratch[laneScratch + laneHalf * 8u + c] * ${factor}; }
  }
}`,
  );
}

/** Who a lane is: its band, row and half of the columns. */
export const LANES = `
  let band = lid / ${SUBGROUP}u;
  let lane = lid % ${SUBGROUP}u;
  let laneRow = lane / 2u;
  let laneHalf = lane % 2u;
  let scratchBase = band * ${SIDE}u * SCRATCH_STRIDE;
  let weightsBase = band * ${SIDE}u * WEIGHTS_STRIDE;
  let laneScratch = scratchBase + laneRow * SCRATCH_STRIDE;
  let laneWeights = weightsBase + laneRow * WEIGHTS_STRIDE;
  let laneFirst = laneHalf * LANE_COLS;`;

/** Head bases of the float16 copies: in vec4h for what is walked over, in f16 at the band for what is kept. */
export function bases(p: PassPlan, list: Operand[], indices: Record<string, string>): string {
  return list
    .map(({name, channels, side}) => {
      const [length, head] = name === 'k' || name === 'v' ? ['Sk', indices.key] : ['Sq', indices.query];
      const rows = `(u.${length} + ${PADDED_ROWS - 1}u) / ${PADDED_ROWS}u * ${PADDED_ROWS}u`;
      const wide = paddedChannels(channels);
      return side === 'col'
        ? `  let ${name}Base = ${head} * (${rows}) * ${wide / 4}u;`
        : `  let ${name}Band = (${head} * (${rows}) + bandFirst) * ${wide}u;`;
    })
    .join('\n');
}

export const hold = (row: Operand): string =>
  unroll(blocksOf(row.channels), (d) => `let ${row.name}Held${d} = ${rowMatrix(row, d)};`);

/** `body(g)` for each vec4 g of the lane's columns. */
export const perQuad = (p: PassPlan, body: (g: number) => string): string => unroll(p.cols / 8, body);

export const quadAt = (g: number): string =>
  `vec4f(${[0, 1, 2, 3].map((c) => `scratch[laneScratch + laneFirst + ${4 * g + c}u]`).join(', ')})`;

export const putWeights = (g: number, value: string): string =>
  `{ let w = vec4h(${value}); ${[0, 1, 2, 3].map((c) => `weights[laneWeights + laneFirst + ${4 * g + c}u] = w[${c}];`).join(' ')} }`;

export function preamble(p: PassPlan): string {
  return `${ENABLE}${declare(matrixBindings(p), true)}${constants(p)}${declareShared(p)}${TILE_BITS}
${classifyFunction(p)}${visibleFunction(p)}`;
}

export const START = `
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let workgroup = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (workgroup >= u.workEnd) { return; }
${LANES}`;

/** The walk of a block of queries over its keys: what forward and dq share. */
export function queryWalk(p: PassPlan): string {
  const {q, k, v, dOut} = operands(p);
  return `
  let queryBlocks = (u.Sq + BLOCK_Q - 1u) / BLOCK_Q;
  let bh = workgroup / queryBlocks;
  let qFirst = (queryBlocks - 1u - workgroup % queryBlocks) * BLOCK_Q;
  let bandFirst = qFirst + band * ${SIDE}u;
  let b = bh / u.H;
  let h = bh % u.H;
  let bhkv = b * u.Hkv + h / u.groupSize;
  let maskHead = b * u.maskBatchStride + h / u.maskGroup;
${bases(p, p.pass === 'forward' ? [q, k, v] : [q, k, v, dOut], {query: 'bh', key: 'bhkv'})}
  let r0 = i32(qFirst);
  let r1 = min(r0 + i32(BLOCK_Q), i32(u.Sq));
  let keyBlocks = (u.Sk + BLOCK_K - 1u) / BLOCK_K;
  let firstTile = 0u;
  let lastTile = ${p.causal ? 'u32(clamp((r1 + u.causalOffset + i32(BLOCK_K) - 1) / i32(BLOCK_K), 0, i32(keyBlocks)))' : 'keyBlocks'};`;
}

/** In partial tiles: masks the lane's vec4s `name0`.. of row laneRow, columns from key kFirst. */
export const maskRow = (p: PassPlan, name: string, masked: string): string => `if (partial) {
${perQuad(
  p,
  (g) => `  {
    let j = vec4i(i32(kFirst + laneFirst + ${4 * g}u)) + vec4i(0, 1, 2, 3);
    ${name}${g} = select(vec4f(${masked}), ${name}${g}, visible(vec4i(i32(bandFirst + laneRow)), j, boundsOfKeys(maskHead, u32(j.x))));
  }`,
)}
}`;
