/**
 * @file The passes that make one result of those of several splits (src/few_queries.ts), which lie one after the other, each laid out
 * as the result. Sums run over the splits in order: bit-identical from run to run.
 */
import {declare, elementType, type Binding} from './header.js';

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
    {name: 'lses', type: 'f32', access: 'read'},
    {name: 'out', type: elementType(Dv), access: 'read_write'},
    {name: 'lse', type: 'f32', access: 'read_write'},
  ];
}

export const combineOutKey = (Dv: number): string => `combine_out_d${Dv}`;

/** out and lse: splits weigh by their sums of exp(score), exp(lse). One thread an element of out. */
export function combineOutShader(Dv: number): string {
  const type = elementType(Dv);
  return `${declare(combineOutBindings(Dv))}
// Stands for -Infinity where arithmetic follows, as MASKED does, with room for a factor.
const NONE = -1.0e38f;
const LN_2 = 0.6931471805599453f;

// The lse of a split; NONE if it saw no key.
fn lseOf(index: u32) -> f32 { return select(lses[index], NONE, bitcast<u32>(lses[index]) == 0xff800000u); }
${INDEX}
  let row = index / ${elementsOf(Dv)}u;
  let d = index % ${elementsOf(Dv)}u;
  let bh = row / u.Sq;
  let at = (bh / u.H) * u.oBatch + (bh % u.H) * u.oHead + (row % u.Sq) * u.oRow + d;
  let rows = u.B * u.H * u.Sq;
  var most = NONE;
  for (var split = 0u; split < u.splits; split++) { most = max(most, lseOf(split * rows + row)); }
  var total = 0.0;
  var sum = ${type}();
  for (var split = 0u; split < u.splits; split++) {
    let weight = exp2((lseOf(split * rows + row) - most) / LN_2);
    total += weight;
    sum += weight * outs[split * u.B * u.oBatch + at];
  }
  // The splits of a row that saw no key weigh 1 each, and are 0.
  out[at] = sum / total;
  if (d == 0u) { lse[row] = select(most + log2(total) * LN_2, u.negativeInfinity, most == NONE); }
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
