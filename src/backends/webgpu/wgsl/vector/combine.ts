/**
 * @file The passes that combine the results of several key splits (src/backends/webgpu/plan/decoding.ts) into one. The
 * results of the splits lie one after the other, each with the layout of the combined result. Sums run over the splits
 * in order, so they are bit-identical from run to run.
 */
import {declareConstants, elementType, ROW_FUNCTIONS} from '../header.js';
import type {Shader} from '../shader.js';

/** Elements of a row with this many channels as it is bound: vec4s or floats. */
export const elementsOf = (channels: number): number => (elementType(channels) === 'vec4f' ? channels / 4 : channels);

/**
 * Combines out, lse and the row statistics. Each split is weighted by its sum of weights. One thread per element of
 * out.
 */
export const combineOut: Shader<{Dv: number}> = {
  name: 'combine_out',
  fields: {Dv: true},
  bindings: ({Dv}) => [
    {name: 'outs', type: elementType(Dv), access: 'read'},
    {name: 'splitStats', type: 'vec2f', access: 'read'},
    {name: 'out', type: elementType(Dv), access: 'read_write'},
    {name: 'lse', type: 'f32', access: 'read_write'},
    {name: 'rowStats', type: 'vec2f', access: 'read_write'},
  ],
  threads: () => 64,
  item: 'thread',
  declarations: () => declareConstants({}) + ROW_FUNCTIONS,
  body: ({Dv}) => `
let row = item / ${elementsOf(Dv)}u;
let d = item % ${elementsOf(Dv)}u;
let bh = row / u.Sq;
let at = (bh / u.H) * u.oBatch + (bh % u.H) * u.oHead + (row % u.Sq) * u.oRow + d;
let rows = u.B * u.H * u.Sq;
var most = LOWEST;
for (var split = 0u; split < u.splits; split++) { most = max(most, splitStats[split * rows + row].x); }
var total = 0.0;
var sum = ${elementType(Dv)}();
for (var split = 0u; split < u.splits; split++) {
  let stats = splitStats[split * rows + row];
  let weight = stats.y * exp2((stats.x - most) * u.scaleLog2);
  total += weight;
  sum += weight * outs[split * u.B * u.oBatch + at];
}
out[at] = select(sum / total, ${elementType(Dv)}(), total == 0.0);
if (d == 0u) {
  lse[row] = logSumExp(most * u.scaleLog2, total);
  rowStats[row] = vec2f(most, total);
}`,
};

/** Adds up dq over the splits. One thread per element. */
export const combineDq: Shader<{element: ReturnType<typeof elementType>}> = {
  name: 'combine_dq',
  fields: {element: true},
  bindings: ({element}) => [
    {name: 'dqs', type: element, access: 'read'},
    {name: 'dq', type: element, access: 'read_write'},
  ],
  threads: () => 64,
  item: 'thread',
  declarations: () => '',
  body: ({element}) => `
var sum = ${element}();
for (var split = 0u; split < u.splits; split++) { sum += dqs[split * u.B * u.qBatch + item]; }
dq[item] = sum;`,
};
