/**
 * @file The three passes on subgroup matrices (WebGPU's chromium-experimental-subgroup-matrix: tensor cores and their like), which read
 * float16 and accumulate in float32. The products, tiles and mask are those of forward.ts and backward.ts; what differs is that
 * matrices are opaque, so that scores go through workgroup memory to become weights.
 *
 * A workgroup keeps `rows` rows; each of its subgroups owns a *band* of 16 of them and walks the column tiles with the others, which
 * share the tiles in workgroup memory. In a band two lanes own a row: each reads, weighs and writes COLS / 2 of its scores.
 */
import {MATRIX_SIDE as SIDE, SUBGROUP, PADDED_ROWS, elementStride, type PassPlan} from '../../plan.js';
import {paddedChannels} from './halves.js';
import {constants, declare, unroll, type Binding} from './header.js';
import {visibleFunction} from './steps.js';
import {classifyFunction, forEachLiveTile, TILE_BITS} from './tiles.js';

const ENABLE = 'enable subgroups;\nenable chromium_experimental_subgroup_matrix;\n';

type Side = 'left' | 'right';
const LEFT = `subgroup_matrix_left<f16, ${SIDE}, ${SIDE}>`;
const RIGHT = `subgroup_matrix_right<f16, ${SIDE}, ${SIDE}>`;
const RESULT = `subgroup_matrix_result<f32, ${SIDE}, ${SIDE}>`;

/** A float16 copy (halves.ts) that a pass reads. */
interface Operand {
  name: string;
  channels: number;
  side: 'row' | 'col';
}

const blocksOf = (channels: number): number => paddedChannels(channels) / SIDE;

function operands(p: PassPlan): Record<'q' | 'k' | 'v' | 'dOut', Operand> {
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
  const read = (p.pass === 'forward' ? [q, k, v] : [q, k, v, dOut]).map(
    ({name, side}): Binding => ({name, type: side === 'row' ? 'f16' : 'vec4h', access: 'read'}),
  );
  const results = {forward: ['out', 'lse'], dq: ['dq'], dkdv: ['dk', 'dv']}[p.pass];
  return [
    ...read,
    ...(p.pass === 'forward' ? [] : [{name: 'rowStats', type: 'vec2f', access: 'read'} as const]),
    ...(p.intervals ? [{name: 'mask', type: 'vec4i', access: 'read'} as const] : []),
    ...results.map((name): Binding => ({name, type: 'f32', access: 'read_write'})),
  ];
}

const colOperands = (p: PassPlan): Operand[] => {
  const {q, k, v, dOut} = operands(p);
  return p.pass === 'dkdv' ? [q, dOut] : [k, v];
};

/** Declares the workgroup arrays: their sizes are those of `matrixBytes` in src/plan.ts. */
function declareShared(p: PassPlan): string {
  const tiles = colOperands(p).map(
    ({name, channels}) => `var<workgroup> ${name}Tile: array<f16, ${p.cols * (paddedChannels(channels) + 8)}>;`,
  );
  const bands = p.rows / SIDE;
  return `${tiles.join('\n')}
// A band's scores, and its weights as float16.
var<workgroup> scratch: array<f32, ${bands * SIDE * (p.cols + 4)}>;
var<workgroup> weights: array<f16, ${bands * SIDE * (p.cols + 8)}>;
const SCRATCH_STRIDE = ${p.cols + 4}u;
const WEIGHTS_STRIDE = ${p.cols + 8}u;
const LANE_COLS = ${p.cols / 2}u;
`;
}

/** Copies the tile of `operand` that starts at row `first` of its head. */
function loadTile(p: PassPlan, {name, channels}: Operand, first: string): string {
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
const rowMatrix = ({name, channels}: Operand, d: number): string =>
  `subgroupMatrixLoad<${LEFT}>(&${name}, ${name}Band + ${d * SIDE}u, false, ${paddedChannels(channels)}u)`;

/** A matrix of a column tile: channels down and columns across if `transposed`, else columns down and channels across. */
const colMatrix = ({name, channels}: Operand, column: string, d: number, transposed: boolean): string => {
  const stride = paddedChannels(channels) + 8;
  return `subgroupMatrixLoad<${RIGHT}>(&${name}Tile, ${column} * ${stride}u + ${d * SIDE}u, ${transposed}, ${stride}u)`;
};

/** Scores rows · columns of the band to its scratch. `held`: the row matrices are in registers. */
function scoresToScratch(p: PassPlan, row: Operand, col: Operand, held: boolean): string {
  const blocks = blocksOf(row.channels);
  const left = (d: number): string => (held ? `${row.name}Held${d}` : rowMatrix(row, d));
  const strips = p.cols / SIDE;
  return `{
${unroll(strips, (s) => `var s${s}: ${RESULT};`)}
${unroll(blocks, (d) => `{
  let left = ${left(d)};
${unroll(strips, (s) => `  s${s} = subgroupMatrixMultiplyAccumulate(left, ${colMatrix(col, `${s * SIDE}u`, d, true)}, s${s});`)}
}`)}
${unroll(strips, (s) => `subgroupMatrixStore(&scratch, scratchBase + ${s * SIDE}u, s${s}, false, SCRATCH_STRIDE);`)}
}
workgroupBarrier();`;
}

/** Adds weights · columns to the accumulators `name0`.. */
function accumulate(p: PassPlan, name: string, col: Operand): string {
  return unroll(p.cols / SIDE, (s) => `{
  let w = subgroupMatrixLoad<${LEFT}>(&weights, weightsBase + ${s * SIDE}u, false, WEIGHTS_STRIDE);
${unroll(blocksOf(col.channels), (d) => `  ${name}${d} = subgroupMatrixMultiplyAccumulate(w, ${colMatrix(col, `${s * SIDE}u`, d, false)}, ${name}${d});`)}
}`);
}

const declareAccumulator = (name: string, channels: number): string =>
  unroll(blocksOf(channels), (d) => `var ${name}${d}: ${RESULT};`);

/** Stores the accumulator times `factor`, a strip of 16 channels at a time, for rows below `limit`. */
function storeAccumulator(
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
const LANES = `
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
function bases(p: PassPlan, list: Operand[], indices: Record<string, string>): string {
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

const hold = (row: Operand): string =>
  unroll(blocksOf(row.channels), (d) => `let ${row.name}Held${d} = ${rowMatrix(row, d)};`);

/** Calls `body` for each vec4 of the lane's columns, with the columns `c` of the tile. */
const perQuad = (p: PassPlan, body: (g: number) => string): string => unroll(p.cols / 8, body);

const quadAt = (g: number): string => `vec4f(${[0, 1, 2, 3].map((c) => `scratch[laneScratch + laneFirst + ${4 * g + c}u]`).join(', ')})`;

const putWeights = (g: number, value: string): string =>
  `{ let w = vec4h(${value}); ${[0, 1, 2, 3].map((c) => `weights[laneWeights + laneFirst + ${4 * g + c}u] = w[${c}];`).join(' ')} }`;

function preamble(p: PassPlan): string {
  return `${ENABLE}${declare(matrixBindings(p), true)}${constants(p)}${declareShared(p)}${TILE_BITS}
${classifyFunction(p)}${visibleFunction(p)}`;
}

const START = `
@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let workgroup = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (workgroup >= u.workEnd) { return; }
${LANES}`;

/** The walk of a block of queries over its keys: what forward and dq share. */
function queryWalk(p: PassPlan): string {
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
const maskRow = (p: PassPlan, name: string, masked: string): string => `if (partial) {
${perQuad(p, (g) => `  {
    let j = vec4i(i32(kFirst + laneFirst + ${4 * g}u)) + vec4i(0, 1, 2, 3);
    ${name}${g} = select(vec4f(${masked}), ${name}${g}, visible(vec4i(i32(bandFirst + laneRow)), j, boundsOfKeys(maskHead, u32(j.x))));
  }`)}
}`;

/**
 * The new reference maximum of a row, and the accumulator rescaled to it. It moves only when a maximum outgrows it by RESCALE_AT:
 * weights of up to 2^8 are as exact in float16 as those up to 1, and moving it costs a trip through workgroup memory.
 */
function rescale(p: PassPlan): string {
  return `
let outgrown = m > reference + RESCALE_AT;
if (subgroupAny(outgrown)) {
  let next = select(reference, m, outgrown);
  let shrink = select(exp2(reference - next), 0.0, reference <= MASKED);
  sum *= shrink;
  reference = next;
${unroll(blocksOf(p.Dv), (d) => `  {
    subgroupMatrixStore(&scratch, scratchBase, o${d}, false, SCRATCH_STRIDE);
    subgroupBarrier();
    for (var c = 0u; c < 8u; c++) { scratch[laneScratch + laneHalf * 8u + c] *= shrink; }
    subgroupBarrier();
    o${d} = subgroupMatrixLoad<${RESULT}>(&scratch, scratchBase, false, SCRATCH_STRIDE);
    subgroupBarrier();
  }`)}
}`.replaceAll('subgroupBarrier();', '');
}

export function matrixForwardShader(p: PassPlan): string {
  const {q, k, v} = operands(p);
  const quads = p.cols / 8;
  const body = `
let kFirst = tile * BLOCK_K;
workgroupBarrier();
${loadTile(p, k, 'kFirst')}
${loadTile(p, v, 'kFirst')}
workgroupBarrier();
${scoresToScratch(p, q, k, true)}
${perQuad(p, (g) => `var x${g} = ${quadAt(g)} * u.scaleLog2;`)}
${maskRow(p, 'x', 'MASKED')}
let most = ${Array.from({length: quads}, (_, g) => `x${g}`).reduce((a, b) => `max(${a}, ${b})`)};
let half = max(max(most.x, most.y), max(most.z, most.w));
let m = max(half, subgroupShuffleXor(half, 1u));
${rescale(p)}
let used = select(reference, 0.0, reference <= MASKED);
${perQuad(p, (g) => `x${g} = exp2(x${g} - used); sum += dot(x${g}, vec4f(1.0));
${putWeights(g, `x${g}`)}`)}
workgroupBarrier();
${accumulate(p, 'o', v)}
`;
  return `${preamble(p)}
const RESCALE_AT = 8.0f;
${START}
${queryWalk(p)}
  let outBase = b * u.oBatch + h * u.oHead;
${hold(q)}
${declareAccumulator('o', p.Dv)}
  var sum = 0.0;
  var reference = MASKED;
${forEachLiveTile('classify(maskHead, candidate, r0, r1)', body)}
  let total = sum + subgroupShuffleXor(sum, 1u);
  let sawNone = reference <= MASKED;
  if (laneHalf == 0u && bandFirst + laneRow < u.Sq) {
    lse[bh * u.Sq + bandFirst + laneRow] = select((reference + log2(total)) * LN_2, u.negativeInfinity, sawNone);
  }
  let factor = select(1.0 / total, 0.0, sawNone);
${storeAccumulator('o', {name: 'out', stride: 'o', channels: p.Dv}, 'u.Sq', 'factor')}
}
`;
}

export function matrixDqShader(p: PassPlan): string {
  const {q, k, v, dOut} = operands(p);
  const body = `
let kFirst = tile * BLOCK_K;
workgroupBarrier();
${loadTile(p, k, 'kFirst')}
${loadTile(p, v, 'kFirst')}
workgroupBarrier();
${scoresToScratch(p, q, k, true)}
${perQuad(p, (g) => `var x${g} = exp2(${quadAt(g)} * u.scaleLog2 - stats.x);`)}
${maskRow(p, 'x', '0.0')}
workgroupBarrier();
${scoresToScratch(p, dOut, v, true)}
${perQuad(p, (g) => putWeights(g, `x${g} * (${quadAt(g)} - stats.y)`))}
workgroupBarrier();
${accumulate(p, 'acc', k)}
`;
  return `${preamble(p)}
${START}
${queryWalk(p)}
  let dqBase = b * u.qBatch + h * u.qHead;
  let laneQuery = bandFirst + laneRow;
  // Past the last query an lse that makes every weight vanish.
  let stats = select(vec2f(3.0e38, 0.0), rowStats[bh * u.Sq + min(laneQuery, u.Sq - 1u)], laneQuery < u.Sq);
${hold(q)}
${hold(dOut)}
${declareAccumulator('acc', p.D)}
${forEachLiveTile('classify(maskHead, candidate, r0, r1)', body)}
${storeAccumulator('acc', {name: 'dq', stride: 'q', channels: p.D}, 'u.Sq', 'u.scale')}
}
`;
}

export function matrixDkdvShader(p: PassPlan): string {
  const {q, k, v, dOut} = operands(p);
  const stats = (g: number): string =>
    `let stat${g} = array(${[0, 1, 2, 3].map((c) => `tileStats[laneFirst + ${4 * g + c}u]`).join(', ')});`;
  const of = (g: number, field: string): string =>
    `vec4f(${[0, 1, 2, 3].map((c) => `stat${g}[${c}].${field}`).join(', ')})`;
  const held = paddedChannels(p.D) + paddedChannels(p.Dv) <= 128;
  const body = `
let qFirst = tile * BLOCK_Q;
workgroupBarrier();
${loadTile(p, q, 'qFirst')}
${loadTile(p, dOut, 'qFirst')}
if (lid < COLS) {
  let r = qFirst + lid;
  tileStats[lid] = select(vec2f(3.0e38, 0.0), rowStats[bh * u.Sq + min(r, u.Sq - 1u)], r < u.Sq);
}
workgroupBarrier();
${scoresToScratch(p, k, q, held)}
${perQuad(p, (g) => `${stats(g)}
var x${g} = exp2(${quadAt(g)} * u.scaleLog2 - ${of(g, 'x')});`)}
if (partial) {
  let j = i32(bandFirst + laneRow);
  let bounds = boundsOfKey(maskHead, u32(min(j, i32(u.Sk) - 1)));
${perQuad(p, (g) => `  {
    let r = vec4i(i32(qFirst + laneFirst + ${4 * g}u)) + vec4i(0, 1, 2, 3);
    x${g} = select(vec4f(), x${g}, visible(r, vec4i(j), bounds));
  }`)}
}
${perQuad(p, (g) => putWeights(g, `x${g}`))}
workgroupBarrier();
${accumulate(p, 'dvAcc', dOut)}
workgroupBarrier();
${scoresToScratch(p, v, dOut, held)}
${perQuad(p, (g) => putWeights(g, `x${g} * (${quadAt(g)} - ${of(g, 'y')})`))}
workgroupBarrier();
${accumulate(p, 'dkAcc', q)}
`;
  return `${preamble(p)}
var<workgroup> tileStats: array<vec2f, ${p.cols}>;
${START}
  let keyBlocks = (u.Sk + BLOCK_K - 1u) / BLOCK_K;
  let bhkv = workgroup / keyBlocks;
  let keyBlock = workgroup % keyBlocks;
  let kFirst = keyBlock * BLOCK_K;
  let bandFirst = kFirst + band * ${SIDE}u;
  let b = bhkv / u.Hkv;
  let hkv = bhkv % u.Hkv;
${bases(p, [k, v], {query: '', key: 'bhkv'})}
  let dkBase = b * u.kBatch + hkv * u.kHead;
  let dvBase = b * u.vBatch + hkv * u.vHead;
  let queryBlocks = (u.Sq + BLOCK_Q - 1u) / BLOCK_Q;
  let firstTile = ${p.causal ? 'u32(max(i32(kFirst) - u.causalOffset, 0)) / BLOCK_Q' : '0u'};
  let lastTile = queryBlocks;
${held ? hold(k) + hold(v) : ''}
${declareAccumulator('dkAcc', p.D)}
${declareAccumulator('dvAcc', p.Dv)}
  for (var member = 0u; member < u.groupSize; member++) {
    let h = hkv * u.groupSize + member;
    let bh = b * u.H + h;
    let maskHead = b * u.maskBatchStride + h / u.maskGroup;
${bases(p, [q, dOut], {query: 'bh', key: ''})}
${forEachLiveTile('classify(maskHead, keyBlock, i32(candidate * BLOCK_Q), min(i32((candidate + 1u) * BLOCK_Q), i32(u.Sq)))', body)}
  }
${storeAccumulator('dkAcc', {name: 'dk', stride: 'k', channels: p.D}, 'u.Sk', 'u.scale')}
${storeAccumulator('dvAcc', {name: 'dv', stride: 'v', channels: p.Dv}, 'u.Sk', '1.0')}
}
`;
}
