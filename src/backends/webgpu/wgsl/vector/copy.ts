/**
 * @file The copy pass: rows of `copyLength` elements from one buffer to another, in which they may lie at other distances. It gathers the
 * heads of a slice where they lie scattered, and scatters them back (src/backends/webgpu/run/slice_views.ts).
 */
import {declare, elementType, type Binding} from '../header.js';

export const COPY_THREADS = 256;

/** Storage bindings of a copy of rows of heads of so many channels. */
export const copyBindings = (channels: number): Binding[] => [
  {name: 'source', type: elementType(channels), access: 'read'},
  {name: 'result', type: elementType(channels), access: 'read_write'},
];

export const copyKey = (channels: number): string => `copy_${elementType(channels)}`;

/** One thread an element: a vec4f where heads are whole ones, else a float. */
export function copyShader(channels: number): string {
  return `${declare(copyBindings(channels))}
@compute @workgroup_size(${COPY_THREADS})
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let index = (u.firstWorkgroup + id.y * u.gridX + id.x) * ${COPY_THREADS}u + lid;
  if (index >= u.workEnd) { return; }
  let row = index / u.copyLength;
  let at = index % u.copyLength;
  result[u.resultFirst + row * u.resultStride + at] = source[u.sourceFirst + row * u.sourceStride + at];
}
`;
}
