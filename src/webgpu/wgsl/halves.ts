/**
 * @file The pass before those on subgroup matrices: a tensor as float16, head by head, its rows padded with zeros to a multiple of
 * PADDED_ROWS and its channels to a multiple of 16. The matrix passes then load without checks, and from half the bytes.
 */
import {MATRIX_SIDE, PADDED_ROWS, roundUp} from '../../plan.js';
import {declare, elementType, type Binding} from './header.js';

export const HALVES_THREADS = 256;

/** What the halves shader depends on. */
export interface HalvesVariant {
  /** Whose strides and lengths the tensor has: those of the queries, keys, values or outputs. */
  stride: 'q' | 'k' | 'v' | 'o';
  channels: number;
}

/** Channels of a head in its float16 copy. */
export const paddedChannels = (channels: number): number => roundUp(channels, MATRIX_SIDE);

export function halvesBindings({channels}: HalvesVariant): Binding[] {
  return [
    {name: 'source', type: elementType(channels), access: 'read'},
    {name: 'halves', type: 'vec4h', access: 'read_write'},
  ];
}

/** Pipeline key of the halves pass. */
export const halvesKey = ({stride, channels}: HalvesVariant): string => `halves_${stride}_d${channels}`;

/** One thread four channels of one row. */
export function halvesShader(v: HalvesVariant): string {
  const {stride, channels} = v;
  const quads = paddedChannels(channels) / 4;
  const [length, heads] = stride === 'k' || stride === 'v' ? ['u.Sk', 'u.Hkv'] : ['u.Sq', 'u.H'];
  const lane = (c: number): string => `select(0.0, source[at + 4u * d + ${c}u], 4u * d + ${c}u < ${channels}u)`;
  const load =
    elementType(channels) === 'vec4f'
      ? `select(vec4f(), source[at + d], d < ${channels / 4}u)`
      : `vec4f(${[0, 1, 2, 3].map(lane).join(', ')})`;
  return `${declare(halvesBindings(v), true)}
@compute @workgroup_size(${HALVES_THREADS})
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let index = (u.firstWorkgroup + id.y * u.gridX + id.x) * ${HALVES_THREADS}u + lid;
  if (index >= u.workEnd) { return; }
  let d = index % ${quads}u;
  let padded = (${length} + ${PADDED_ROWS - 1}u) / ${PADDED_ROWS}u * ${PADDED_ROWS}u;
  let row = (index / ${quads}u) % padded;
  let bh = index / ${quads}u / padded;
  let at = (bh / ${heads}) * u.${stride}Batch + (bh % ${heads}) * u.${stride}Head + row * u.${stride}Row;
  halves[index] = vec4h(select(vec4f(), ${load}, row < ${length}));
}
`;
}
