/**
 * @file The steps that all passes share: load a tile, multiply rows by columns into scores, weigh columns into an accumulator,
 * mask, drop. Each function returns WGSL for the body of a pass; loops over a thread's register tile are unrolled here.
 *
 * A tile is kept plane by plane: plane d holds channels 4d..4d+3 of all its rows as vec4s. A thread owns rows
 * 4(ty + a THREADS_Y) + i and columns 4(tx + g THREADS_X) + c, for i and c below 4.
 */
import {roundUp, type PassPlan, type TileShape} from '../../plan.js';
import {elementType, unroll} from './header.js';

/** A tensor that a pass reads by tiles. */
export interface Operand {
  /** Name of its storage binding. */
  name: string;
  /** Names of the uniform strides: `${stride}Row`. */
  stride: 'q' | 'k' | 'v' | 'o';
  channels: number;
  /** Whether it supplies the rows or the columns of the tiles. */
  side: 'row' | 'col';
}

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

export const planesOf = (channels: number): number => Math.ceil(channels / 4);

/** Planes of the tile that `operand` is loaded into, rounded up so that every thread of a row has channels to own. */
export function tilePlanes(p: PassPlan, operand: Operand): number {
  return roundUp(p.resident ? planesOf(operand.channels) : p.chunk, p.threadsX);
}

/** Name of the workgroup array that holds `operand`: its own, or the one that all rows or columns stream through. */
export function tileName(p: PassPlan, operand: Operand): string {
  if (p.resident) return `${operand.name}Tile`;
  return operand.side === 'row' ? 'rowTile' : 'colTile';
}

/** Element of the workgroup tiles: what the products read; they accumulate in float32. */
const tileType = (p: PassPlan): string => (p.half ? 'vec4h' : 'vec4f');

/** Declares the workgroup arrays of a pass. */
export function declareTiles(p: PassPlan, operands: readonly Operand[]): string {
  const arrays = new Map<string, number>();
  for (const operand of operands) {
    const side = operand.side === 'row' ? p.rows : p.cols;
    arrays.set(tileName(p, operand), tilePlanes(p, operand) * (side + 1));
  }
  arrays.set('weights', (p.cols / 4) * (p.rows + 1));
  return [...arrays].map(([name, size]) => `var<workgroup> ${name}: array<${tileType(p)}, ${size}>;`).join('\n') + '\n';
}

/** Declares `load_x(base, d)`: channels 4d..4d+3 of the row that starts at `base`, zeros past the last channel. */
export function loadFunction({name, channels}: Operand): string {
  if (elementType(channels) === 'vec4f') {
    return `fn load_${name}(base: u32, d: u32) -> vec4f { return ${name}[base + d]; }`;
  }
  const lane = (c: number): string => `select(0.0, ${name}[base + 4u * d + ${c}u], 4u * d + ${c}u < ${channels}u)`;
  return `fn load_${name}(base: u32, d: u32) -> vec4f {
  return vec4f(${[0, 1, 2, 3].map(lane).join(', ')});
}`;
}

/**
 * Copies a tile of `operand` to workgroup memory, zeros past `limit` rows and past the last channel. All of a thread's loads
 * come before its stores, so that they are in flight together.
 */
export function loadTile(p: PassPlan, operand: Operand, firstRow: string, limit: string, chunk: string): string {
  const side = operand.side === 'row' ? 'ROW' : 'COL';
  const count = operand.side === 'row' ? p.rows : p.cols;
  const planes = p.resident ? planesOf(operand.channels) : p.chunk;
  const total = count * planes;
  const trips = Math.ceil(total / p.threads);
  const tile = tileName(p, operand);
  const ragged = !p.resident && planesOf(operand.channels) % p.chunk !== 0;
  const batch = 8;
  const fetch = (t: number): string => {
    const guard = ragged ? `row${t} < ${limit} && d${t} < ${planesOf(operand.channels)}u` : `row${t} < ${limit}`;
    const plane = p.resident ? `e${t} % ${planes}u` : `${chunk} * ${planes}u + e${t} % ${planes}u`;
    return `let e${t} = lid + ${t * p.threads}u;
let row${t} = ${firstRow} + e${t} / ${planes}u;
let d${t} = ${plane};
let x${t} = select(vec4f(), load_${operand.name}(${operand.name}Base + row${t} * u.${operand.stride}Row, d${t}), ${guard});`;
  };
  const store = (t: number): string => {
    const r = `(e${t} / ${planes}u)`;
    const line = `${tile}[(e${t} % ${planes}u) * ${side}_STRIDE + (${r} & 3u) * ${side}_QUARTER + (${r} >> 2u)] = ${tileType(p)}(x${t});`;
    return (t + 1) * p.threads > total ? `if (e${t} < ${total}u) { ${line} }` : line;
  };
  const groups = Math.ceil(trips / batch);
  return unroll(groups, (g) => {
    const first = g * batch;
    const n = Math.min(batch, trips - first);
    return `{
${unroll(n, (t) => fetch(first + t))}
${unroll(n, (t) => store(first + t))}
}`;
  });
}

/** Declares a thread's scores, `name_i_g`: its row i, column group g. */
export function declareScores(p: TileShape, name: string): string {
  const {rows, colGroups} = registerTile(p);
  return unroll(rows, (i) => unroll(colGroups, (g) => `var ${name}_${i}_${g} = vec4f();`));
}

/** Adds rows · columns over the channels in the tiles to the scores `name`. */
function addScores(p: PassPlan, name: string, row: Operand, col: Operand): string {
  const {rows, colGroups} = registerTile(p);
  const planes = p.resident ? planesOf(row.channels) : p.chunk;
  const rowAt = (i: number): string => `rowAt + ${i % 4}u * ROW_QUARTER + ${Math.floor(i / 4) * p.threadsY}u`;
  const colAt = (g: number, c: number): string => `vec4f(${tileName(p, col)}[colAt + ${c}u * COL_QUARTER + ${g * p.threadsX}u])`;
  return `for (var d = 0u; d < ${planes}u; d++) {
  let rowAt = d * ROW_STRIDE + ty;
  let colAt = d * COL_STRIDE + tx;
${unroll(rows, (i) => `  let r${i} = vec4f(${tileName(p, row)}[${rowAt(i)}]);`)}
${unroll(
  colGroups,
  (g) => `  {
    let c = transpose(mat4x4f(${[0, 1, 2, 3].map((c) => colAt(g, c)).join(', ')}));
${unroll(rows, (i) => unroll(4, (x) => `    ${name}_${i}_${g} = fma(vec4f(r${i}[${x}]), c[${x}], ${name}_${i}_${g});`))}
  }`,
)}
}`;
}

/** Where a tile lies: WGSL for its first row and for the number of rows that the tensor has. */
export interface Place {
  first: string;
  limit: string;
}

/** Scores of a whole tile: rows · columns over all channels, streamed in chunks unless the heads are resident. */
export function scores(p: PassPlan, name: string, row: Operand, col: Operand, rowPlace: Place, colPlace: Place): string {
  if (p.resident) return addScores(p, name, row, col);
  return `for (var chunk = 0u; chunk < ${Math.ceil(planesOf(row.channels) / p.chunk)}u; chunk++) {
workgroupBarrier();
${loadTile(p, row, rowPlace.first, rowPlace.limit, 'chunk')}
${loadTile(p, col, colPlace.first, colPlace.limit, 'chunk')}
workgroupBarrier();
${addScores(p, name, row, col)}
}`;
}

/** vec4s of an accumulator row that a thread owns: channels 4(tx + m THREADS_X).. for m below this. */
export function accumulatorVec4s(p: PassPlan, channels: number): number {
  const perTile = roundUp(p.resident ? planesOf(channels) : p.chunk, p.threadsX) / p.threadsX;
  return p.resident ? perTile : perTile * Math.ceil(planesOf(channels) / p.chunk);
}

/** Channel group (of four) of accumulator vec4 m, as WGSL. */
export function accumulatorPlane(p: PassPlan, m: number): string {
  const perTile = roundUp(p.chunk, p.threadsX) / p.threadsX;
  if (p.resident) return `(tx + ${m * p.threadsX}u)`;
  return `(${Math.floor(m / perTile) * p.chunk}u + tx + ${(m % perTile) * p.threadsX}u)`;
}

export function declareAccumulator(p: PassPlan, name: string, channels: number): string {
  const {rows} = registerTile(p);
  return unroll(rows, (i) => unroll(accumulatorVec4s(p, channels), (m) => `var ${name}_${i}_${m} = vec4f();`));
}

/** Adds weights · columns, for the channels in the tile, to accumulator vec4s first.. of every row. */
function addWeighted(p: PassPlan, name: string, col: Operand, first: number, count: number): string {
  const {rows} = registerTile(p);
  const weightAt = (i: number): string => `weightAt + ${i % 4}u * ROW_QUARTER + ${Math.floor(i / 4) * p.threadsY}u`;
  return `for (var k = 0u; k < COL_QUARTER; k++) {
  let weightAt = k * ROW_STRIDE + ty;
${unroll(rows, (i) => `  let w${i} = vec4f(weights[${weightAt(i)}]);`)}
${unroll(
  count,
  (m) => `  {
    let at = (tx + ${m * p.threadsX}u) * COL_STRIDE + k;
${unroll(4, (c) => `    let c${c} = vec4f(${tileName(p, col)}[at + ${c}u * COL_QUARTER]);`)}
${unroll(rows, (i) => unroll(4, (c) => `    ${name}_${i}_${first + m} = fma(vec4f(w${i}[${c}]), c${c}, ${name}_${i}_${first + m});`))}
  }`,
)}
}`;
}

/** accumulator += weights · columns over all channels; the weights are in workgroup memory. Starts with a barrier. */
export function accumulate(p: PassPlan, name: string, col: Operand, colPlace: Place): string {
  const vec4s = accumulatorVec4s(p, col.channels);
  if (p.resident) return `workgroupBarrier();\n${addWeighted(p, name, col, 0, vec4s)}`;
  const chunks = Math.ceil(planesOf(col.channels) / p.chunk);
  return unroll(
    chunks,
    (chunk) => `workgroupBarrier();
${loadTile(p, col, colPlace.first, colPlace.limit, `${chunk}u`)}
workgroupBarrier();
${addWeighted(p, name, col, (chunk * vec4s) / chunks, vec4s / chunks)}`,
  );
}

/** Writes the thread's scores `name` to the weights, columns by fours, where `accumulate` reads them. */
export function storeWeights(p: PassPlan, name: string): string {
  const {rows, colGroups} = registerTile(p);
  const at = (i: number, g: number): string =>
    `(tx + ${g * p.threadsX}u) * ROW_STRIDE + ${i % 4}u * ROW_QUARTER + ty + ${Math.floor(i / 4) * p.threadsY}u`;
  return unroll(rows, (i) => unroll(colGroups, (g) => `weights[${at(i, g)}] = ${tileType(p)}(${name}_${i}_${g});`));
}

/** Offset of a thread's row i in the row tile, as WGSL. */
export function rowOf(p: TileShape, i: number): string {
  return `(4u * (ty + ${Math.floor(i / 4) * p.threadsY}u) + ${i % 4}u)`;
}

/** Offset of the first of a thread's four columns of group g in the column tile, as WGSL. */
export function colOf(p: TileShape, g: number): string {
  return `(4u * (tx + ${g * p.threadsX}u))`;
}

/** Stores an accumulator times `factor(i)` to `target`, whose row base is `base`, for rows below `limit`. */
export function storeAccumulator(
  p: PassPlan, name: string, target: Operand, firstRow: string, limit: string, factor: (i: number) => string,
): string {
  const {rows} = registerTile(p);
  const {channels} = target;
  const vec4s = accumulatorVec4s(p, channels);
  const put = (i: number, m: number): string => {
    const value = `${name}_${i}_${m} * ${factor(i)}`;
    const plane = accumulatorPlane(p, m);
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
    let at = ${target.name}Base + row * u.${target.stride}Row;
${unroll(vec4s, (m) => put(i, m))}
  }
}`,
  );
}

/**
 * Declares `visible`: which of four pairs the mask lets through, by vector operations alone (short-circuit ones would branch 16
 * times a thread). `boundsOfKeys` gives the bounds of four neighbouring keys, `boundsOfKey` those of one key, four times.
 */
export function visibleFunction(p: PassPlan): string {
  const outside = (start: string, end: string): string => ` & !((r >= bounds.${start}) & (r < bounds.${end}))`;
  const columns = '2u * u.maskHeads * u.keyBlocks + maskHead * u.Sk';
  return `
struct Bounds { ${p.intervals ? 'lowerStart: vec4i, lowerEnd: vec4i, upperStart: vec4i, upperEnd: vec4i' : 'none: u32'} }

fn visible(r: vec4i, j: vec4i, bounds: Bounds) -> vec4<bool> {
  return (j < vec4i(i32(u.Sk)))${p.causal ? ' & (r >= j - u.causalOffset)' : ''}${
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
 * Declares `keep(head, r, keyGroup)`: for keys 4 keyGroup.. of query row r, 1 / (1 - dropout) where the pair is kept, else 0.
 * Philox4x32-10 (Salmon et al., SC 2011), the twin of src/philox.ts.
 */
export function keepFunction(p: PassPlan): string {
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
  var counter = vec4u(keyGroup, r, head, 0u);
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
