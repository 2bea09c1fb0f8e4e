/**
 * @file The passes that make one result of those of several splits (src/backends/webgpu/plan/decoding.ts), which lie one after the other, each laid out
 * as the result. Sums run over the splits in order: bit-identical from run to run.
 */
import {declare, declareConstants, elementType, ROW_FUNCTIONS, type Binding} from '../header.js';

export const COMBINE_THREADS = 64;

/** Elements of a row of so many channels, as it is bound: vec4s or floats. */
export const elementsOf = (channels: number): number => (elementType(channels) === 'vec4f' ? channels / 4 : channels);

const INDEX = `
@compute @workgroup_size(${COMBINE_THREADS})
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let index = (u.firstWorkgroup + id.y * u.gridX + id.x) * ${COMBINE_THREADS}u + lid;
  if (index >= u.workEnd) { return; }`;

export function combineOutBindings(Dv: number): Binding[] {
  return [
    {name: 'outs', type: elementType(Dv), access: 'read'},
    {name: 'splitStats', type: 'vec2f', access: 'read'},
    {name: 'out', type: elementType(Dv), access: 'read_write'},
    {name: 'lse', type: 'f32', access: 'read_write'},
    {name: 'rowStats', type: 'vec2f', access: 'read_write'},
  ];
}

export const combineOutKey = (Dv: number): string => `combine_out_d${Dv}`;

/** out, lse and the rows' statistics: splits weigh by their sums of weights. One thread an element of out. */
export function combineOutShader(Dv: number): string {
  const type = elementType(Dv);
  return `${declare(combineOutBindings(Dv))}${declareConstants({})}${ROW_FUNCTIONS}${INDEX}
  let row = index / ${elementsOf(Dv)}u;
  let d = index % ${elementsOf(Dv)}u;
  let bh = row / u.Sq;
  let at = (bh / u.H) * u.oBatch + (bh % u.H) * u.oHead + (row % u.Sq) * u.oRow + d;
  let rows = u.B * u.H * u.Sq;
  var most = LOWEST;
  for (var split = 0u; split < u.splits; split++) { most = max(most, splitStats[split * rows + row].x); }
  var total = 0.0;
  var sum = ${type}();
  for (var split = 0u; split < u.splits; split++) {
    let stats = splitStats[split * rows + row];
    let weight = stats.y * exp2((stats.x - most) * u.scaleLog2);
    total += weight;
    sum += weight * outs[split * u.B * u.oBatch + at];
  }
  out[at] = select(sum / total, ${type}(), total == 0.0);
  if (d == 0u) {
    lse[row] = logSumExp(most * u.scaleLog2, total);
    rowStats[row] = vec2f(most, total);
  }
}
`;
}

export function combineDqBindings(D: number): Binding[] {
  return [
    {name: 'dqs', type: elementType(D), access: 'read'},
    {name: 'dq', type: elementType(D), access: 'read_write'},
  ];
}

export const combineDqKey = (D: number): string => `combine_dq_${elementType(D)}`;

/** dq: the sum over the splits. One thread an element. */
export function combineDqShader(D: number): string {
  return `${declare(combineDqBindings(D))}
${INDEX}
  var sum = ${elementType(D)}();
  for (var split = 0u; split < u.splits; split++) { sum += dqs[split * u.B * u.qBatch + index]; }
  dq[index] = sum;
}
`;
}
