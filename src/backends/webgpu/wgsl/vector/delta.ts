/**
 * @file The pass before the backward passes. It computes rowTerms = (max, 1 / sum, delta - dLse, unused) per query row.
 * max and sum are the row statistics of the forward pass: the weights of the row are exp2((S - max) scaleLog2) / sum.
 * delta is rowsum(dO ∘ O) (paper section 4.3, algorithm 2).
 */
import {HALF_FUNCTIONS} from '../matrix/float16_copies.js';
import {elementType, NOT_FINITE_FUNCTION} from '../header.js';
import type {Shader} from '../shader.js';

/** The properties that the delta shader depends on. */
export interface DeltaVariant {
  Dv: number;
  /** Whether a gradient comes through lse. Otherwise dLse is not bound. */
  lseGradient: boolean;
  /**
   * Whether dO is rounded to float16, as the products of the passes read it. Otherwise the gradient of a row with a
   * single key would not cancel.
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
  declarations: ({rounded}) => (rounded ? NOT_FINITE_FUNCTION + HALF_FUNCTIONS : ''),
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
// A row that saw no key: its weights vanish, whatever dO and dLse are.
rowTerms[item] = select(vec4f(stats.x, 1.0 / stats.y, ${rowShift}, 0.0), vec4f(), stats.y == 0.0);`;
}
