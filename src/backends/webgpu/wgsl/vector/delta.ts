/**
 * @file The pass before the backward ones: per query row, rowTerms = (max, 1 / sum, delta - dLse, unused), where max and sum are what the
 * forward pass kept of the row, so that its weights are exp2((S - max) scaleLog2) / sum, and delta = rowsum(dO ∘ O) (paper section 4.3,
 * algorithm 2).
 */
import {PARTS_FUNCTIONS} from '../matrix/float16_copies.js';
import {declare, elementType, NOT_FINITE_FUNCTION, type Binding} from '../header.js';

export const DELTA_THREADS = 64;

/** What the delta shader depends on. */
export interface DeltaVariant {
  Dv: number;
  /** Whether a gradient comes through lse; else dLse is not bound. */
  lseGradient: boolean;
  /** Whether dO counts as float16, as the products of the passes read it: else a row with a single key would not cancel. */
  rounded: boolean;
}

export function deltaBindings(v: DeltaVariant): Binding[] {
  return [
    {name: 'out', type: elementType(v.Dv), access: 'read'},
    {name: 'dOut', type: elementType(v.Dv), access: 'read'},
    {name: 'rowStats', type: 'vec2f', access: 'read'},
    ...(v.lseGradient ? [{name: 'dLse', type: 'f32', access: 'read'} as const] : []),
    {name: 'rowTerms', type: 'vec4f', access: 'read_write'},
  ];
}

/** Pipeline key of the delta pass. */
export const deltaKey = (v: DeltaVariant): string =>
  `delta_d${v.Dv}${v.lseGradient ? '_lse' : ''}${v.rounded ? '_rounded' : ''}`;

/** One thread a row of one head. */
export function deltaShader(v: DeltaVariant): string {
  const vector = elementType(v.Dv) === 'vec4f';
  const steps = vector ? v.Dv / 4 : v.Dv;
  const type = vector ? 'vec4f' : 'f32';
  const read = v.rounded ? `${type}(highPart(vec4f(dOut[at + d]))${vector ? '' : '.x'})` : 'dOut[at + d]';
  return `${declare(deltaBindings(v))}${v.rounded ? NOT_FINITE_FUNCTION + PARTS_FUNCTIONS : ''}
@compute @workgroup_size(${DELTA_THREADS})
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let index = (u.firstWorkgroup + id.y * u.gridX + id.x) * ${DELTA_THREADS}u + lid;
  let row = index % u.Sq;
  let bh = index / u.Sq;
  if (index >= u.workEnd) { return; }
  let at = (bh / u.H) * u.oBatch + (bh % u.H) * u.oHead + row * u.oRow;
  var delta = 0.0;
  for (var d = 0u; d < ${steps}u; d++) {
    delta += ${vector ? `dot(out[at + d], ${read})` : `out[at + d] * ${read}`};
  }
  let stats = rowStats[index];
  // A row that saw no key: its weights vanish, whatever comes in as dO and dLse.
  rowTerms[index] = select(vec4f(stats.x, 1.0 / stats.y, delta${v.lseGradient ? ' - dLse[index]' : ''}, 0.0), vec4f(), stats.y == 0.0);
}
`;
}
