/**
 * @file The passes before those on subgroup matrices: a tensor as float16, head by head, with rows and channels padded with zeros to whole
 * tiles, so that nothing needs to be checked when it is loaded. A head, or all query heads that share a key head, is scaled by a power of two,
 * which costs no bits, to fill the range of float16: nothing overflows, and small tensors keep their precision. With two parts a number
 * is a high half and what that leaves.
 *
 * The copy is one array of vec4u, eight halves each: rows of `rowUnits`, then one element a key head whose x is the factor that undoes the
 * scale.
 */
import {MOST_ROWS} from '../../matrix_plan.js';
import {roundUp} from '../../plan.js';
import {declare, elementType, unroll, type Binding} from './header.js';
import type {OperandStride} from './steps.js';

export const HALVES_THREADS = 256;
/** Parts of a head whose magnitudes are reduced by a workgroup each. */
export const SEGMENTS = 32;
/** Loads of a thread that are in flight together, in the first of the two passes. */
const LOADS_IN_FLIGHT = 4;
/** Rows of a copied head are a multiple of this, and so of any block of a matrix pass: loads go nowhere past its end. */
export const PADDED_ROWS = MOST_ROWS;

/** What both passes depend on. */
export interface HalvesVariant {
  /** Whose strides and lengths the tensor has: those of the queries, keys, values or outputs. */
  stride: OperandStride;
  channels: number;
  /** Channels of the copy: whole matrices, a multiple of 8. */
  padded: number;
  parts: 1 | 2;
}

/** Elements of a copied row. */
export const rowUnits = ({padded, parts}: Pick<HalvesVariant, 'padded' | 'parts'>): number => (parts * padded) / 8;

/** Elements of a copy, of one part, that a thread writes: a divisor of those of PADDED_ROWS rows for each thread. */
const unitsPerThread = ({padded}: HalvesVariant): number => (padded % 32 === 0 ? 4 : padded % 16 === 0 ? 2 : 1);

/** Workgroups that copy one head of so many rows. */
export const workgroupsPerHead = (v: HalvesVariant, rows: number): number =>
  (roundUp(rows, PADDED_ROWS) * (v.padded / 8)) / (HALVES_THREADS * unitsPerThread(v));

/**
 * Declares `highOf`: its argument rounded to the eleven bits of a half, by its bits, for compilers may take the conversion to float16 and
 * back for nothing.
 */
export const HIGH_FUNCTION = `
fn highOf(x: vec4f) -> vec4f { return bitcast<vec4f>((bitcast<vec4u>(x) + 0x1000u) & vec4u(0xffffe000u)); }
`;

/** WGSL for the rows of a copied head: `length` is that of the tensor. */
export const paddedRows = (length: string): string =>
  `((${length} + ${PADDED_ROWS - 1}u) / ${PADDED_ROWS}u * ${PADDED_ROWS}u)`;

export const magnitudeBindings = ({channels}: HalvesVariant): Binding[] => [
  {name: 'source', type: elementType(channels), access: 'read'},
  {name: 'magnitudes', type: 'f32', access: 'read_write'},
];

export const halvesBindings = ({channels}: HalvesVariant): Binding[] => [
  {name: 'source', type: elementType(channels), access: 'read'},
  {name: 'magnitudes', type: 'vec4f', access: 'read'},
  {name: 'halves', type: 'vec4u', access: 'read_write'},
];

export const magnitudeKey = ({stride, channels}: HalvesVariant): string => `magnitude_${stride}_d${channels}`;
export const halvesKey = ({stride, channels, padded, parts}: HalvesVariant): string =>
  `halves_${stride}_d${channels}x${padded}_parts${parts}`;

const lengthOf = ({stride}: HalvesVariant): string => (stride === 'k' || stride === 'v' ? 'u.Sk' : 'u.Sq');

const headsOf = ({stride}: HalvesVariant): string => (stride === 'k' || stride === 'v' ? 'u.Hkv' : 'u.H');

/** Declares `quad(head, row, d)`: channels 4d.. of a row, zeros past the last row and channel. */
function quadFunction(v: HalvesVariant): string {
  const {stride, channels} = v;
  const heads = headsOf(v);
  const lane = (c: number): string => `select(0.0, source[at + 4u * d + ${c}u], 4u * d + ${c}u < ${channels}u)`;
  const value =
    elementType(channels) === 'vec4f'
      ? `select(vec4f(), source[at + d], d < ${channels / 4}u)`
      : `vec4f(${[0, 1, 2, 3].map(lane).join(', ')})`;
  return `
fn quad(head: u32, row: u32, d: u32) -> vec4f {
  let at = (head / ${heads}) * u.${stride}Batch + (head % ${heads}) * u.${stride}Head + row * u.${stride}Row;
  return select(vec4f(), ${value}, row < ${lengthOf(v)});
}
`;
}

const START = `@compute @workgroup_size(${HALVES_THREADS})
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let item = u.firstWorkgroup + id.y * u.gridX + id.x;
  if (item >= u.workEnd) { return; }`;

/** One workgroup a segment of a head: the largest absolute value in it. */
export function magnitudeShader(v: HalvesVariant): string {
  const quads = Math.ceil(v.channels / 4);
  return `${declare(magnitudeBindings(v))}
var<workgroup> largest: array<f32, ${HALVES_THREADS}>;
${quadFunction(v)}
${START}
  let head = item / ${SEGMENTS}u;
  var most = vec4f();
  for (var i = item % ${SEGMENTS}u * ${HALVES_THREADS}u + lid; i < ${lengthOf(v)} * ${quads}u; i += ${LOADS_IN_FLIGHT * SEGMENTS * HALVES_THREADS}u) {
${unroll(LOADS_IN_FLIGHT, (t) => `    let x${t} = abs(quad(head, (i + ${t * SEGMENTS * HALVES_THREADS}u) / ${quads}u, (i + ${t * SEGMENTS * HALVES_THREADS}u) % ${quads}u));`)}
    most = max(most, ${Array.from({length: LOADS_IN_FLIGHT}, (_, t) => `x${t}`).reduce((a, b) => `max(${a}, ${b})`)});
  }
  largest[lid] = max(max(most.x, most.y), max(most.z, most.w));
  for (var half = ${HALVES_THREADS / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lid < half) { largest[lid] = max(largest[lid], largest[lid + half]); }
  }
  if (lid == 0u) { magnitudes[item] = largest[0]; }
}
`;
}

/** One workgroup a run of a head's rows. */
export function halvesShader(v: HalvesVariant): string {
  const units = v.padded / 8;
  const trips = unitsPerThread(v);
  const run = HALVES_THREADS * trips;
  const row = rowUnits(v);
  const rows = paddedRows(lengthOf(v));
  const groupSize = headsOf(v) === 'u.Hkv' ? '1u' : 'u.groupSize';
  const fetch = (t: number): string => `
  let r${t} = (start + ${t * HALVES_THREADS}u) / ${units}u;
  let unit${t} = (start + ${t * HALVES_THREADS}u) % ${units}u;
  let x${t} = quad(head, r${t}, 2u * unit${t}) * scale;
  let y${t} = quad(head, r${t}, 2u * unit${t} + 1u) * scale;`;
  const store = (t: number): string => {
    const at = (part: number): string => `halves[(head * ${rows} + r${t}) * ${row}u + ${part * units}u + unit${t}]`;
    if (v.parts === 1) return `  ${at(0)} = packed(x${t}, y${t});`;
    return `  ${at(0)} = packed(highOf(x${t}), highOf(y${t}));
  ${at(1)} = packed(x${t} - highOf(x${t}), y${t} - highOf(y${t}));`;
  };
  return `enable f16;
${declare(halvesBindings(v))}
${quadFunction(v)}
fn packed(x: vec4f, y: vec4f) -> vec4u { return vec4u(bitcast<vec2u>(vec4<f16>(x)), bitcast<vec2u>(vec4<f16>(y))); }
${v.parts === 2 ? HIGH_FUNCTION : ''}
${START}
  let workgroups = ${rows} * ${units}u / ${run}u;
  let head = item / workgroups;
  let group = head / ${groupSize};
  var most = vec4f();
  for (var i = 0u; i < ${groupSize} * ${SEGMENTS / 4}u; i++) {
    most = max(most, magnitudes[group * ${groupSize} * ${SEGMENTS / 4}u + i]);
  }
  // The largest value becomes 2^14 to 2^15. An infinite one stays what it is, and so do heads of almost nothing.
  let exponent = bitcast<u32>(max(max(most.x, most.y), max(most.z, most.w))) >> 23u;
  let biased = select(clamp(exponent, 15u, 253u), 141u, exponent == 255u);
  let scale = bitcast<f32>((268u - biased) << 23u);
  if (item % workgroups == 0u && head % ${groupSize} == 0u && lid == 0u) {
    halves[u.B * ${headsOf(v)} * ${rows} * ${row}u + group] = vec4u((biased - 14u) << 23u, 0u, 0u, 0u);
  }
  let start = item % workgroups * ${run}u + lid;
${unroll(trips, fetch)}
${unroll(trips, store)}
}
`;
}
