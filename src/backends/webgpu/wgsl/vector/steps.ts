/**
 * @file The steps that all passes on vectors share: load a tile, multiply rows by columns into scores, add weighted
 * columns to an accumulator, apply mask and dropout. Each function returns WGSL for the body of a pass. Loops over a
 * thread's register tile are unrolled here.
 *
 * A tile is stored plane by plane: plane d holds channels 4d to 4d + 3 of all its rows as vec4s. A thread owns rows
 * 4(ty + a THREADS_Y) + i and columns 4(tx + g THREADS_X) + c, for i and c below 4.
 */
import {CHUNK, type ShaderPlan, type TileShape} from '../../plan/vector_plan.js';
import {elementType, unroll} from '../header.js';
import {queryOf, rowOffset} from '../mask/query_rows.js';
import type {Operand} from '../operands.js';
import type {Shader} from '../shader.js';

/** All fields of a plan that the code of a pass depends on. */
export const SHADER_PLAN_FIELDS: Shader<ShaderPlan>['fields'] = {
  pass: true,
  D: true,
  Dv: true,
  causal: true,
  intervals: true,
  dropout: true,
  fewQueries: true,
  scheduled: true,
  rows: true,
  cols: true,
  threadsX: true,
  threadsY: true,
  threads: true,
  blockQ: true,
  blockK: true,
};

/** Register tile of a thread. */
export interface RegisterTile {
  /** Rows, a multiple of 4. */
  rows: number;
  /** Groups of four columns. */
  colGroups: number;
}

export function registerTile(p: TileShape): RegisterTile {
  return {rows: p.rows / p.threadsY, colGroups: p.cols / p.threadsX / 4};
}

/** vec4s of a head. */
const planesOf = (channels: number): number => Math.ceil(channels / 4);

/** Name of the workgroup array that the chunks of `operand` stream through. */
const tileName = (operand: Operand): string => (operand.side === 'row' ? 'rowTile' : 'colTile');

/** Number of chunks in which a head with this many channels streams. */
export const chunksOf = (channels: number): number => Math.ceil(planesOf(channels) / CHUNK);

/** Declares the workgroup arrays that all passes share. */
export function declareTiles(p: ShaderPlan): string {
  const sizes = {rowTile: CHUNK * (p.rows + 1), colTile: CHUNK * (p.cols + 1), weights: (p.cols / 4) * (p.rows + 1)};
  const lines = Object.entries(sizes).map(([name, size]) => `var<workgroup> ${name}: array<vec4f, ${size}>;`);
  return lines.join('\n') + '\n';
}

/** Declares `load_x(base, d)`: channels 4d to 4d + 3 of the row that starts at `base`, zeros past the last channel. */
export function loadFunction({name, channels}: Operand): string {
  if (elementType(channels) === 'vec4f') {
    return `fn load_${name}(base: u32, d: u32) -> vec4f { return ${name}[base + d]; }`;
  }
  const lane = (c: number): string => `select(0.0, ${name}[base + 4u * d + ${c}u], 4u * d + ${c}u < ${channels}u)`;
  return `fn load_${name}(base: u32, d: u32) -> vec4f {
  return vec4f(${[0, 1, 2, 3].map(lane).join(', ')});
}`;
}

/** The place of a tile: WGSL for its first row and for the number of rows that the tensor has. */
export interface Place {
  first: string;
  limit: string;
}

/** Loads of a thread that are in flight together. */
const LOADS_IN_FLIGHT = 8;

/**
 * Copies a chunk of a tile of `operand` to workgroup memory, zeros past the last row and channel. A thread's loads come
 * before its stores, so that they are in flight together.
 *
 * @param change WGSL that changes vec4s on the way, given their names.
 */
function loadTile(
  p: ShaderPlan,
  operand: Operand,
  {first, limit}: Place,
  chunk: string,
  change: (names: string[]) => string = () => '',
): string {
  const [side, count] = operand.side === 'row' ? ['ROW', p.rows] : ['COL', p.cols];
  const total = count * CHUNK;
  const trips = Math.ceil(total / p.threads);
  const ragged = planesOf(operand.channels) % CHUNK !== 0;
  const offset = (row: string): string =>
    operand.side === 'row' ? rowOffset(p, operand.stride, row) : `${row} * u.${operand.stride}Row`;
  const fetch = (t: number): string => {
    // & instead of &&, which branches: SwiftShader takes minutes and gigabytes to compile a few dozen branches in a
    // row.
    const guard = `(row${t} < ${limit})${ragged ? ` & (d${t} < ${planesOf(operand.channels)}u)` : ''}`;
    return `let e${t} = lid + ${t * p.threads}u;
let row${t} = ${first} + e${t} / CHUNK;
let d${t} = ${chunk} * CHUNK + e${t} % CHUNK;
var x${t} = select(vec4f(), load_${operand.name}(${operand.name}Base + ${offset(`row${t}`)}, d${t}), ${guard});`;
  };
  const store = (t: number): string => {
    const r = `(e${t} / CHUNK)`;
    const at = `(e${t} % CHUNK) * ${side}_STRIDE + (${r} & 3u) * ${side}_QUARTER + (${r} >> 2u)`;
    const line = `${tileName(operand)}[${at}] = x${t};`;
    return (t + 1) * p.threads > total ? `if (e${t} < ${total}u) { ${line} }` : line;
  };
  return unroll(Math.ceil(trips / LOADS_IN_FLIGHT), (group) => {
    const from = group * LOADS_IN_FLIGHT;
    const n = Math.min(LOADS_IN_FLIGHT, trips - from);
    return `{
${unroll(n, (t) => fetch(from + t))}
${change(Array.from({length: n}, (_, t) => `x${from + t}`))}
${unroll(n, (t) => store(from + t))}
}`;
  });
}

/** Declares a thread's scores, `name_i_g`: its row i, column group g. */
export function declareScores(p: TileShape, name: string): string {
  const {rows, colGroups} = registerTile(p);
  return unroll(rows, (i) => unroll(colGroups, (g) => `var ${name}_${i}_${g} = vec4f();`));
}

/** Adds rows · columns over the channels in the tiles to the scores `name`. */
function addScores(p: ShaderPlan, name: string, channels: number): string {
  const {rows, colGroups} = registerTile(p);
  const rowAt = (i: number): string => `rowAt + ${i % 4}u * ROW_QUARTER + ${Math.floor(i / 4) * p.threadsY}u`;
  const colAt = (g: number, c: number): string => `colTile[colAt + ${c}u * COL_QUARTER + ${g * p.threadsX}u]`;
  return `for (var d = 0u; d < ${Math.min(CHUNK, planesOf(channels))}u; d++) {
  let rowAt = d * ROW_STRIDE + ty;
  let colAt = d * COL_STRIDE + tx;
${unroll(rows, (i) => `  let r${i} = rowTile[${rowAt(i)}];`)}
${unroll(
  colGroups,
  (g) => `  {
    let c = transpose(mat4x4f(${[0, 1, 2, 3].map((c) => colAt(g, c)).join(', ')}));
${unroll(rows, (i) => unroll(4, (x) => `    ${name}_${i}_${g} = fma(vec4f(r${i}[${x}]), c[${x}], ${name}_${i}_${g});`))}
  }`,
)}
}`;
}

/** Scores of a whole tile, added to `name`: rows · columns over all channels, chunk by chunk. */
export function scores(
  p: ShaderPlan,
  name: string,
  row: Operand,
  col: Operand,
  rowPlace: Place,
  colPlace: Place,
): string {
  return `for (var chunk = 0u; chunk < ${chunksOf(row.channels)}u; chunk++) {
workgroupBarrier();
${loadTile(p, row, rowPlace, 'chunk')}
${loadTile(p, col, colPlace, 'chunk')}
workgroupBarrier();
${addScores(p, name, row.channels)}
}`;
}

/**
 * Declares an accumulator row by row: vec4 `name_i_m` holds the channels of chunk m from 4(m CHUNK + tx) on, of the
 * thread's row i.
 */
export function declareAccumulator(p: ShaderPlan, name: string, channels: number): string {
  const {rows} = registerTile(p);
  return unroll(rows, (i) => unroll(chunksOf(channels), (m) => `var ${name}_${i}_${m} = vec4f();`));
}

/** Adds weights · columns, for the channels in the tile, to accumulator vec4 m of every row. */
function addWeighted(p: ShaderPlan, name: string, m: number): string {
  const {rows} = registerTile(p);
  const weightAt = (i: number): string => `weightAt + ${i % 4}u * ROW_QUARTER + ${Math.floor(i / 4) * p.threadsY}u`;
  return `for (var k = 0u; k < COL_QUARTER; k++) {
  let weightAt = k * ROW_STRIDE + ty;
  let at = tx * COL_STRIDE + k;
${unroll(rows, (i) => `  let w${i} = weights[${weightAt(i)}];`)}
${unroll(4, (c) => `  let c${c} = colTile[at + ${c}u * COL_QUARTER];`)}
${unroll(rows, (i) => unroll(4, (c) => `  ${name}_${i}_${m} = fma(vec4f(w${i}[${c}]), c${c}, ${name}_${i}_${m});`))}
}`;
}

/**
 * Adds weights · columns over all channels to the accumulator. The weights are in workgroup memory. Starts with a
 * barrier. In partial tiles infinite and NaN numbers of the columns count as zeros, since a weight of 0 does not hide
 * them.
 *
 * @param note Whether `sawNotFinite` records that the thread met such a number, for `addNotFinite`. Only numbers of v
 *   and dO need that: infinite and NaN numbers of q and k make the weights of all rows that see them NaN.
 */
export function accumulate(p: ShaderPlan, name: string, col: Operand, colPlace: Place, note = false): string {
  const clearOne = (x: string): string => `{
  let notFinite = isNotFinite(${x});
  ${note ? 'sawNotFinite |= any(notFinite);' : ''}
  ${x} = select(${x}, vec4f(), notFinite);
}`;
  const clear = (names: string[]): string => `if (partial) {\n${names.map(clearOne).join('\n')}\n}`;
  return unroll(
    chunksOf(col.channels),
    (m) => `workgroupBarrier();
${loadTile(p, col, colPlace, `${m}u`, clear)}
workgroupBarrier();
${addWeighted(p, name, m)}`,
  );
}

/** Writes the thread's scores `name` to the weights, in groups of four columns, as `accumulate` reads them. */
export function storeWeights(p: ShaderPlan, name: string): string {
  const {rows, colGroups} = registerTile(p);
  const at = (i: number, g: number): string =>
    `(tx + ${g * p.threadsX}u) * ROW_STRIDE + ${i % 4}u * ROW_QUARTER + ty + ${Math.floor(i / 4) * p.threadsY}u`;
  return unroll(rows, (i) => unroll(colGroups, (g) => `weights[${at(i, g)}] = ${name}_${i}_${g};`));
}

/** Offset of a thread's row i in the row tile, as WGSL. */
export function rowOf(p: TileShape, i: number): string {
  return `(4u * (ty + ${Math.floor(i / 4) * p.threadsY}u) + ${i % 4}u)`;
}

/** Offset of the first of a thread's four columns of group g in the column tile, as WGSL. */
export function colOf(p: TileShape, g: number): string {
  return `(4u * (tx + ${g * p.threadsX}u))`;
}

/**
 * In partial tiles whose rows are queries, replaces the numbers `name` that the mask hides by `masked`, which is WGSL.
 */
export function maskTile(p: ShaderPlan, name: string, masked: string): string {
  const {rows, colGroups} = registerTile(p);
  const maskRow = (i: number, g: number): string =>
    `${name}_${i}_${g} = select(vec4f(${masked}), ${name}_${i}_${g}, visible(vec4i(i32(${queryOf(p, `qFirst + ${rowOf(p, i)}`)})), j, bounds));`;
  return `if (partial) {
${unroll(
  colGroups,
  (g) => `  {
    let j = vec4i(i32(kFirst + ${colOf(p, g)})) + vec4i(0, 1, 2, 3);
    let bounds = boundsOfKeys(maskHead, u32(j.x));
${unroll(rows, (i) => `    ${maskRow(i, g)}`)}
  }`,
)}
}`;
}

/**
 * Adds the infinite and NaN numbers of `col`, which `accumulate` has cleared, to the rows of an accumulator that see
 * them. It does so only if a thread of the workgroup has met such a number. They are rare, so this is a plain loop over
 * columns.
 *
 * @param place Place of the columns of `tile`, for each tile that the workgroup may have visited.
 * @param visibleRows WGSL for a vec4<bool>: which of four rows see column `c`, given the offset of the first of them in
 *   the row tile.
 */
export function addNotFinite(
  p: ShaderPlan,
  name: string,
  col: Operand,
  {first, limit}: Place,
  visibleRows: (firstRow: string) => string,
): string {
  const {rows} = registerTile(p);
  const add = (m: number): string => {
    const plane = `(${m}u * CHUNK + tx)`;
    const each = (i: number): string =>
      `${name}_${i}_${m} = select(${name}_${i}_${m}, ${name}_${i}_${m} + x, notFinite & vec4<bool>(seen_${Math.floor(i / 4)}[${i % 4}]));`;
    return `if (${plane} < ${planesOf(col.channels)}u) {
  let x = load_${col.name}(at, ${plane});
  let notFinite = isNotFinite(x);
  if (any(notFinite)) {
${unroll(rows, each)}
  }
}`;
  };
  return `
if (sawNotFinite) { notFiniteMet = 1u; }
if (workgroupUniformLoad(&notFiniteMet) != 0u) {
  for (var tile = firstTile; tile < lastTile; tile++) {
    let cFirst = ${first};
    for (var c = cFirst; c < min(cFirst + COLS, ${limit}); c++) {
      let at = ${col.name}Base + c * u.${col.stride}Row;
${unroll(rows / 4, (a) => `let seen_${a} = ${visibleRows(rowOf(p, 4 * a))};`)}
${unroll(chunksOf(col.channels), add)}
    }
  }
}`;
}

/** Stores an accumulator times `factor(i)` to `target`, whose row base is `base`, for rows below `limit`. */
export function storeAccumulator(
  p: ShaderPlan,
  name: string,
  target: Operand,
  firstRow: string,
  limit: string,
  factor: (i: number) => string,
): string {
  const {rows} = registerTile(p);
  const {channels} = target;
  const put = (i: number, m: number): string => {
    const value = `${name}_${i}_${m} * ${factor(i)}`;
    const plane = `(${m}u * CHUNK + tx)`;
    if (elementType(channels) === 'vec4f') {
      return `    if (${plane} < ${planesOf(channels)}u) { ${target.name}[at + ${plane}] = ${value}; }`;
    }
    return `    { let x = ${value}; let d = 4u * ${plane};
${unroll(4, (c) => `      if (d + ${c}u < ${channels}u) { ${target.name}[at + d + ${c}u] = x[${c}]; }`)} }`;
  };
  return unroll(
    rows,
    (i) => `{
  let row = ${firstRow} + ${rowOf(p, i)};
  if (row < ${limit}) {
    let at = ${target.name}Base + ${rowOffset(p, target.stride, 'row')};
${unroll(chunksOf(channels), (m) => put(i, m))}
  }
}`,
  );
}

/**
 * Declares `visible`: which of four pairs the mask does not hide. It uses only vector operations, since short-circuit
 * operators would branch 16 times per thread. `boundsOfKeys` gives the bounds of four neighbouring keys, `boundsOfKey`
 * those of one key, four times.
 */
export function visibleFunction(p: Pick<ShaderPlan, 'causal' | 'intervals'>): string {
  const outside = (start: string, end: string): string => ` & !((r >= bounds.${start}) & (r < bounds.${end}))`;
  const columns = '2u * u.maskHeads * u.mapBlocks + maskHead * u.Sk';
  return `
struct Bounds { ${p.intervals ? 'lowerStart: vec4i, lowerEnd: vec4i, upperStart: vec4i, upperEnd: vec4i' : 'none: u32'} }

fn visible(r: vec4i, j: vec4i, bounds: Bounds) -> vec4<bool> {
  return (r < vec4i(i32(u.Sq))) & (j < vec4i(i32(u.Sk)))${p.causal ? ' & (r >= j - u.causalOffset)' : ''}${
    p.intervals ? outside('lowerStart', 'lowerEnd') + outside('upperStart', 'upperEnd') : ''
  };
}

fn boundsOfKeys(maskHead: u32, j: u32) -> Bounds {
${
  p.intervals
    ? `  let at = ${columns} + j;
  let b = array(mask[at], mask[at + 1u], mask[at + 2u], mask[at + 3u]);
  return Bounds(${['x', 'y', 'z', 'w'].map((f) => `vec4i(${[0, 1, 2, 3].map((c) => `b[${c}].${f}`).join(', ')})`).join(', ')});`
    : '  return Bounds(0u);'
}
}

fn boundsOfKey(maskHead: u32, j: u32) -> Bounds {
${
  p.intervals
    ? `  let b = mask[${columns} + j];
  return Bounds(vec4i(b.x), vec4i(b.y), vec4i(b.z), vec4i(b.w));`
    : '  return Bounds(0u);'
}
}
`;
}

/**
 * Declares `keep(head, r, keyGroup)`: for the four keys from 4 keyGroup on and query row r, 1 / (1 - dropout) where the
 * pair is kept, else 0. Philox4x32-10 (Salmon et al., SC 2011). TWIN: src/call/dropout.ts
 */
export function keepFunction(p: Pick<ShaderPlan, 'dropout'>): string {
  if (!p.dropout) return '';
  return `
fn mulHigh(a: u32, b: u32) -> u32 {
  let aLow = a & 0xffffu; let aHigh = a >> 16u; let bLow = b & 0xffffu; let bHigh = b >> 16u;
  let low = aLow * bLow;
  let middle = aHigh * bLow + (low >> 16u);
  let cross = aLow * bHigh + (middle & 0xffffu);
  return aHigh * bHigh + (middle >> 16u) + (cross >> 16u);
}
fn keep(head: u32, r: u32, keyGroup: u32) -> vec4f {
  var counter = vec4u(keyGroup, r, u.firstHead + head, 0u);
  var key = vec2u(u.seedLow, u.seedHigh);
  for (var round = 0u; round < 10u; round++) {
    let high0 = mulHigh(0xD2511F53u, counter.x); let low0 = 0xD2511F53u * counter.x;
    let high1 = mulHigh(0xCD9E8D57u, counter.z); let low1 = 0xCD9E8D57u * counter.z;
    counter = vec4u(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
    key = key + vec2u(0x9E3779B9u, 0xBB67AE85u);
  }
  return select(vec4f(u.keepScale), vec4f(), counter < vec4u(u.dropThreshold));
}
`;
}
