/**
 * @file The pass before the backward ones: per query row, rowTerms = (max, 1 / sum, delta - dLse, unused), where max
 * and sum are what the forward pass kept of the row, so that its weights are exp2((S - max) scaleLog2) / sum, and delta
 * = rowsum(dO ∘ O) (paper section 4.3, algorithm 2).
 */
import {PARTS_FUNCTIONS} from '../matrix/float16_copies.js';
import {elementType, NOT_FINITE_FUNCTION} from '../header.js';
import type {Shader} from '../shader.js';

/** What the delta shader depends on. */
export interface DeltaVariant {
  Dv: number;
  /** Whether a gradient comes through lse; else dLse is not bound. */
  lseGradient: boolean;
  /**
   * Whether dO counts as float16, as the products of the passes read it: else a row with a single key would not cancel.
   */
  rounded: boolean;
}

/** One thread per row of a head. */
export const delta: Shader<DeltaVariant> = {
  name: 'delta',
  fields: {Dv: true, lseGradient: true, rounded: true},
  bindings: ({Dv, lseGradient}) => [
    {name: 'out', type: elementType(Dv), access: 'read'},
    {name: 'dOut', type: elementType(Dv), access: 'read'},
    {name: 'rowStats', type: 'vec2f', access: 'read'},
    ...(lseGradient ? [{name: 'dLse', type: 'f32', access: 'read'} as const] : []),
    {name: 'rowTerms', type: 'vec4f', access: 'read_write'},
  ],
  threads: () => 64,
  item: 'thread',
  declarations: ({rounded}) => (rounded ? NOT_FINITE_FUNCTION + PARTS_FUNCTIONS : ''),
  body,
};

function body({Dv, lseGradient, rounded}: DeltaVariant): string {
  const vector = elementType(Dv) === 'vec4f';
  const type = vector ? 'vec4f' : 'f32';
  const read = rounded ? `${type}(highPart(vec4f(dOut[at + d]))${vector ? '' : '.x'})` : 'dOut[at + d]';
  const rowShift = `delta${lseGradient ? ' - dLse[item]' : ''}`;
  return `
let row = item % u.Sq;
let bh = item / u.Sq;
let at = (bh / u.H) * u.oBatch + (bh % u.H) * u.oHead + row * u.oRow;
var delta = 0.0;
for (var d = 0u; d < ${vector ? Dv / 4 : Dv}u; d++) {
  delta += ${vector ? `dot(out[at + d], ${read})` : `out[at + d] * ${read}`};
}
let stats = rowStats[item];
// A row that saw no key: its weights vanish, whatever comes in as dO and dLse.
rowTerms[item] = select(vec4f(stats.x, 1.0 / stats.y, ${rowShift}, 0.0), vec4f(), stats.y == 0.0);`;
}
