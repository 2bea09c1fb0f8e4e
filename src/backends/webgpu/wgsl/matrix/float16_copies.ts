/**
 * @file The passes that copy tensors to float16 for the passes on subgroup matrices. A tensor is copied head by head.
 * Rows and channels are padded with zeros to whole tiles, so that loads need no checks.
 *
 * A head, or all query heads that share a key head, is scaled by a power of two to fill the range of float16. This
 * costs no bits: nothing overflows, and small tensors keep their precision. With two parts each number is stored as its
 * rounded value and the remainder.
 *
 * Numbers that no pair sees must not decide the scale: infinite and NaN numbers, keys that no query sees and queries
 * that see no key do not count.
 *
 * The copy is one array of vec4u, each with eight float16 numbers. First come the rows, of `rowUnits` elements each.
 * Then comes one element per key head: its x is the factor that undoes the scale, and its y is not 0 if the heads have
 * infinite or NaN numbers.
 */
import {MOST_ROWS} from '../../plan/matrix_plan.js';
import {roundUp} from '../../../../call/numbers.js';
import {elementType, NOT_FINITE_FUNCTION, NOT_FINITE_MET, unroll, type Binding} from '../header.js';
import type {OperandStride} from '../operands.js';
import type {Shader} from '../shader.js';
import {MASK_HEAD} from '../mask/row_blocks.js';
import {visibleFunction} from '../vector/steps.js';

export const COPY_THREADS = 256;
/** Segments of a head. One workgroup reduces the magnitudes of each segment. */
export const SEGMENTS = 32;
/** Loads of a thread that are in flight together in the magnitude pass. */
const LOADS_IN_FLIGHT = 4;
/**
 * The rows of a copied head are a multiple of this, and so of every block of a matrix pass: no load goes past the end
 * of a head.
 */
export const PADDED_ROWS = MOST_ROWS;

/** The tensors that are copied: dOut in the backward only. */
export type Copied = 'q' | 'k' | 'v' | 'dOut';

/** The properties that both passes depend on. */
export interface CopiesVariant {
  /** Tensors that are copied together: at most three, so that their bindings fit every device. */
  names: readonly Copied[];
  /** Channels of queries and keys (D), and of values (Dv). */
  D: number;
  Dv: number;
  /** Channels of the copies, padded to whole matrices: a multiple of 8. */
  padded: number;
  halvesPerNumber: 1 | 2;
  /** Form of the mask, which decides the rows that count. */
  causal: boolean;
  intervals: boolean;
}

/** The tensors and their numbers of channels. */
type Sources = Pick<CopiesVariant, 'names' | 'D' | 'Dv'>;
type MagnitudeVariant = Omit<CopiesVariant, 'padded' | 'halvesPerNumber'>;
type ConversionVariant = Omit<CopiesVariant, 'causal' | 'intervals'>;

/** Elements of a copied row. */
export const rowUnits = ({padded, halvesPerNumber}: Pick<CopiesVariant, 'padded' | 'halvesPerNumber'>): number =>
  (halvesPerNumber * padded) / 8;

/** Elements of one part of a copy that a thread writes. The number divides a thread's share of PADDED_ROWS rows. */
const unitsPerThread = ({padded}: Pick<CopiesVariant, 'padded'>): number =>
  padded % 32 === 0 ? 4 : padded % 16 === 0 ? 2 : 1;

/** Number of workgroups that copy one head with this many rows. */
export const workgroupsPerHead = (v: Pick<CopiesVariant, 'padded'>, rows: number): number =>
  (roundUp(rows, PADDED_ROWS) * (v.padded / 8)) / (COPY_THREADS * unitsPerThread(v));

/**
 * Declares `highOf`: its argument rounded to the eleven significant bits of float16. It works on bits, since compilers
 * may remove the conversion to float16 and back. A NaN with all bits set becomes 0, and its remainder is NaN.
 */
export const HIGH_FUNCTION = `
fn highOf(x: vec4f) -> vec4f { return bitcast<vec4f>((bitcast<vec4u>(x) + 0x1000u) & vec4u(0xffffe000u)); }
`;

/**
 * Declares the two parts of a number: `highPart`, the rounded value, and `lowPart`, the remainder. Infinite and NaN
 * numbers have a remainder of 0.
 */
export const HALF_FUNCTIONS = `${HIGH_FUNCTION}
fn highPart(x: vec4f) -> vec4f { return select(highOf(x), x, isNotFinite(x)); }
fn lowPart(x: vec4f) -> vec4f { return select(x - highOf(x), vec4f(), isNotFinite(x)); }
`;

/** WGSL for the number of rows of a copied head. `length` is that of the tensor. */
export const paddedRows = (length: string): string =>
  `((${length} + ${PADDED_ROWS - 1}u) / ${PADDED_ROWS}u * ${PADDED_ROWS}u)`;

const sourcesOf = (v: Sources): Binding[] =>
  v.names.map((name) => ({name, type: elementType(channelsOf(v, name)), access: 'read'}));

const channelsOf = ({D, Dv}: Pick<CopiesVariant, 'D' | 'Dv'>, name: Copied): number =>
  name === 'q' || name === 'k' ? D : Dv;

/** WGSL for the uniforms that describe a tensor. */
function placeOf(name: Copied): {stride: OperandStride; length: string; heads: string; groupSize: string} {
  const stride = name === 'dOut' ? 'o' : name;
  return name === 'k' || name === 'v'
    ? {stride, length: 'u.Sk', heads: 'u.Hkv', groupSize: '1u'}
    : {stride, length: 'u.Sq', heads: 'u.H', groupSize: 'u.groupSize'};
}

/** Declares `quad_NAME(head, row, d)`: channels 4d to 4d + 3 of a row, zeros past the last row and channel. */
function quadFunction(v: Sources, name: Copied): string {
  const channels = channelsOf(v, name);
  const {stride, length, heads} = placeOf(name);
  const lane = (c: number): string => `select(0.0, ${name}[at + 4u * d + ${c}u], 4u * d + ${c}u < ${channels}u)`;
  const value =
    elementType(channels) === 'vec4f'
      ? `select(vec4f(), ${name}[at + d], d < ${channels / 4}u)`
      : `vec4f(${[0, 1, 2, 3].map(lane).join(', ')})`;
  return `
fn quad_${name}(head: u32, row: u32, d: u32) -> vec4f {
  let at = (head / ${heads}) * u.${stride}Batch + (head % ${heads}) * u.${stride}Head + row * u.${stride}Row;
  return select(vec4f(), ${value}, row < ${length});
}
`;
}

/**
 * The body of both shaders: it handles tensor after tensor. `countOf` gives WGSL for the number of workgroups of a
 * tensor, and `call` WGSL that handles workgroup `rest` of a tensor.
 */
const eachTensor = ({names}: Sources, countOf: (name: Copied) => string, call: (name: Copied) => string): string => `
var rest = item;
${names
  .map((name) => `if (rest < ${countOf(name)}) {\n${call(name)}\nreturn;\n}\nrest -= ${countOf(name)};`)
  .join('\n')}`;

const segmentsOf = (name: Copied): string => `u.B * ${placeOf(name).heads} * ${SEGMENTS}u`;

/**
 * Declares `isSeen(head, j)`, whether any query sees key j of a key head, and `seesKey(head, r)`, whether query r of a
 * head sees any key. The search starts at the diagonal, where most masks have a visible pair.
 */
const connectedFunctions = (v: MagnitudeVariant): string => `${MASK_HEAD}${visibleFunction(v)}
fn isSeen(head: u32, j: u32) -> bool {
  for (var member = 0u; member < u.groupSize; member++) {
    // Rows below reach are masked.
    var reach = ${v.causal ? 'max(i32(j) - u.causalOffset, 0)' : '0'};
${
  v.intervals
    ? `    let bounds = boundsOfKey(maskHeadOf(head / u.Hkv, head % u.Hkv * u.groupSize + member), j);
    for (var again = 0u; again < 2u; again++) {
      reach = select(reach, max(reach, bounds.lowerEnd.x), bounds.lowerStart.x <= reach);
      reach = select(reach, max(reach, bounds.upperEnd.x), bounds.upperStart.x <= reach);
    }`
    : ''
}
    if (reach < i32(u.Sq)) { return true; }
  }
  return false;
}

fn seesKey(head: u32, r: u32) -> bool {
  let maskHead = maskHeadOf(head / u.H, head % u.H);
  let diagonal = u32(clamp(i32(r) + u.causalOffset, 0, i32(u.Sk) - 1));
  for (var i = 0u; i < u.Sk; i++) {
    let j = (diagonal + u.Sk - i) % u.Sk;
    if (visible(vec4i(i32(r)), vec4i(i32(j)), boundsOfKey(maskHead, j)).x) { return true; }
  }
  return false;
}
`;

const isMasked = ({causal, intervals}: MagnitudeVariant): boolean => causal || intervals;

/** Elements from one load of a thread to its next. */
const LOAD_STRIDE = SEGMENTS * COPY_THREADS;

/** WGSL for whether a row of the tensor counts. */
const isConnected = (name: Copied, row: string): string =>
  `${name === 'k' || name === 'v' ? 'isSeen' : 'seesKey'}(head, ${row})`;

/** WGSL for the loop head over a thread's vec4s of a segment, `loads` at a time. */
const eachLoad = (v: Sources, name: Copied, loads: number): string =>
  `for (var i = item % ${SEGMENTS}u * ${COPY_THREADS}u + lid; i < ${placeOf(name).length} * ${quadsOf(v, name)}u; i += ${loads * LOAD_STRIDE}u)`;

const quadsOf = (v: Sources, name: Copied): number => Math.ceil(channelsOf(v, name) / 4);

/** Declares `largestOf_NAME(item, lid)`: the largest absolute value that a thread loads of a segment. */
function largestFunction(v: MagnitudeVariant, name: Copied): string {
  const quads = quadsOf(v, name);
  const at = (t: number): string => `(i + ${t * LOAD_STRIDE}u)`;
  const load = (t: number): string => `    let x${t} = quad_${name}(head, ${at(t)} / ${quads}u, ${at(t)} % ${quads}u);`;
  const compare = (t: number): string => `    {
      sawNotFinite |= any(isNotFinite(x${t}));
      let largest = largestFinite(x${t});
      mostRow = select(mostRow, ${at(t)} / ${quads}u, largest > most);
      most = max(most, largest);
    }`;
  return `
fn largestOf_${name}(item: u32, lid: u32) -> f32 {
  let head = item / ${SEGMENTS}u;
  var most = 0.0;
  var mostRow = 0u;
  var sawNotFinite = false;
  ${eachLoad(v, name, LOADS_IN_FLIGHT)} {
${unroll(LOADS_IN_FLIGHT, load)}
${unroll(LOADS_IN_FLIGHT, compare)}
  }
  if (sawNotFinite) { notFiniteMet = 1u; }
${isMasked(v) ? `  if (most > 0.0 && !${isConnected(name, 'mostRow')}) { most = largestConnectedOf_${name}(item, lid); }` : ''}
  return most;
}
`;
}

/**
 * Declares `largestConnectedOf_NAME`, for segments whose largest value belongs to a row that does not count: it checks
 * the mask row by row.
 */
function largestConnectedFunction(v: MagnitudeVariant, name: Copied): string {
  if (!isMasked(v)) return '';
  const quads = quadsOf(v, name);
  return `
fn largestConnectedOf_${name}(item: u32, lid: u32) -> f32 {
  let head = item / ${SEGMENTS}u;
  var most = 0.0;
  ${eachLoad(v, name, 1)} {
    let largest = largestFinite(quad_${name}(head, i / ${quads}u, i % ${quads}u));
    if (largest > most && ${isConnected(name, `i / ${quads}u`)}) { most = largest; }
  }
  return most;
}
`;
}

/**
 * One workgroup per segment of a head: the largest absolute value in it, negative if the segment has infinite or NaN
 * numbers.
 */
export const magnitude: Shader<MagnitudeVariant> = {
  name: 'magnitude',
  fields: {names: true, D: true, Dv: true, causal: true, intervals: true},
  bindings: (v) => [
    ...sourcesOf(v),
    ...(v.intervals ? [{name: 'mask', type: 'vec4i', access: 'read'} as const] : []),
    {name: 'magnitudes', type: 'f32', access: 'read_write'},
  ],
  threads: () => COPY_THREADS,
  item: 'workgroup',
  declarations: magnitudeDeclarations,
  body: (v) => eachTensor(v, segmentsOf, (name) => `store(item, lid, largestOf_${name}(rest, lid));`),
};

function magnitudeDeclarations(v: MagnitudeVariant): string {
  const measures = v.names.flatMap((name) => [
    quadFunction(v, name),
    largestConnectedFunction(v, name),
    largestFunction(v, name),
  ]);
  return `${NOT_FINITE_FUNCTION}${isMasked(v) ? connectedFunctions(v) : ''}${NOT_FINITE_MET}
var<workgroup> largest: array<f32, ${COPY_THREADS}>;

fn largestFinite(x: vec4f) -> f32 {
  let finite = select(abs(x), vec4f(), isNotFinite(x));
  return max(max(finite.x, finite.y), max(finite.z, finite.w));
}
${measures.join('')}
fn store(workgroup: u32, lid: u32, most: f32) {
  largest[lid] = most;
  for (var half = ${COPY_THREADS / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lid < half) { largest[lid] = max(largest[lid], largest[lid + half]); }
  }
  if (lid == 0u) { magnitudes[workgroup] = bitcast<f32>(bitcast<u32>(largest[0]) | (notFiniteMet << 31u)); }
}
`;
}

const workgroupsOfHead = (v: ConversionVariant, name: Copied): string =>
  `(${paddedRows(placeOf(name).length)} * ${v.padded / 8}u / ${COPY_THREADS * unitsPerThread(v)}u)`;

/**
 * Declares `copy_NAME(item, lid)`, which copies a run of a head's rows. `first` is WGSL for the place where the
 * tensor's magnitudes begin, in vec4s.
 */
function copyFunction(v: ConversionVariant, name: Copied, first: string): string {
  const units = v.padded / 8;
  const trips = unitsPerThread(v);
  const row = rowUnits(v);
  const {length, heads, groupSize} = placeOf(name);
  const rows = paddedRows(length);
  const fetch = (t: number): string => `
  let r${t} = (start + ${t * COPY_THREADS}u) / ${units}u;
  let unit${t} = (start + ${t * COPY_THREADS}u) % ${units}u;
  let x${t} = scaled(quad_${name}(head, r${t}, 2u * unit${t}), scale);
  let y${t} = scaled(quad_${name}(head, r${t}, 2u * unit${t} + 1u), scale);`;
  const store = (t: number): string => {
    const at = (half: number): string =>
      `${name}Halves[(head * ${rows} + r${t}) * ${row}u + ${half * units}u + unit${t}]`;
    if (v.halvesPerNumber === 1) return `  ${at(0)} = packed(x${t}, y${t});`;
    return `  ${at(0)} = packed(highPart(x${t}), highPart(y${t}));
  ${at(1)} = packed(lowPart(x${t}), lowPart(y${t}));`;
  };
  return `${quadFunction(v, name)}
fn copy_${name}(item: u32, lid: u32) {
  let workgroups = ${workgroupsOfHead(v, name)};
  let head = item / workgroups;
  let group = head / ${groupSize};
  let most = largestOf((${first}) + group * ${groupSize} * ${SEGMENTS / 4}u, ${groupSize} * ${SEGMENTS / 4}u);
  let biased = most.x;
  let scale = bitcast<f32>((268u - biased) << 23u);
  if (item % workgroups == 0u && head % ${groupSize} == 0u && lid == 0u) {
    ${name}Halves[u.B * ${heads} * ${rows} * ${row}u + group] = vec4u((biased - 14u) << 23u, most.y, 0u, 0u);
  }
  let start = item % workgroups * ${COPY_THREADS * trips}u + lid;
${unroll(trips, fetch)}
${unroll(trips, store)}
}
`;
}

/** One workgroup per run of a head's rows. */
export const float16Copies: Shader<ConversionVariant> = {
  name: 'float16_copies',
  fields: {names: true, D: true, Dv: true, padded: true, halvesPerNumber: true},
  bindings: (v) => [
    ...sourcesOf(v),
    {name: 'magnitudes', type: 'vec4f', access: 'read'},
    ...v.names.map((name): Binding => ({name: `${name}Halves`, type: 'vec4u', access: 'read_write'})),
  ],
  threads: () => COPY_THREADS,
  item: 'workgroup',
  directives: ['enable f16'],
  declarations: copyDeclarations,
  body: (v) =>
    eachTensor(
      v,
      (name) => `u.B * ${placeOf(name).heads} * ${workgroupsOfHead(v, name)}`,
      (name) => `copy_${name}(rest, lid);`,
    ),
};

function copyDeclarations(v: ConversionVariant): string {
  const firstOf = (t: number): string =>
    ['0u', ...v.names.slice(0, t).map((name) => `${segmentsOf(name)} / 4u`)].join(' + ');
  return `
fn packed(x: vec4f, y: vec4f) -> vec4u { return vec4u(bitcast<vec2u>(vec4<f16>(x)), bitcast<vec2u>(vec4<f16>(y))); }
${NOT_FINITE_FUNCTION}${v.halvesPerNumber === 2 ? HALF_FUNCTIONS : ''}
// Only numbers that do not count are too large for float16: no pair sees them.
fn scaled(x: vec4f, scale: f32) -> vec4f {
  return select(clamp(x * scale, vec4f(-65504.0), vec4f(65504.0)), x, isNotFinite(x));
}

// Of the given magnitudes: x is the biased exponent of the largest, which becomes 2^14 to 2^15. y is not 0 if there are
// infinite or NaN numbers.
fn largestOf(first: u32, count: u32) -> vec2u {
  var most = vec4f();
  var signs = vec4u();
  for (var i = 0u; i < count; i++) {
    most = max(most, abs(magnitudes[first + i]));
    signs |= bitcast<vec4u>(magnitudes[first + i]);
  }
  let exponent = bitcast<u32>(max(max(most.x, most.y), max(most.z, most.w))) >> 23u;
  return vec2u(clamp(exponent, 15u, 253u), (signs.x | signs.y | signs.z | signs.w) >> 31u);
}
${v.names.map((name, t) => copyFunction(v, name, firstOf(t))).join('')}
`;
}
