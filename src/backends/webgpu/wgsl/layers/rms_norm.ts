/** @file RMSNorm (src/layers/rms_norm.ts) and its gradient by the input, one workgroup per row. */
import {type Binding, elementType} from '../header.js';
import type {Shader} from '../shader.js';
import {elementsOf} from '../vector/combine.js';
import {LAYER_UNIFORMS} from './layer.js';

export interface RowVariant {
  channels: number;
}

export interface RmsNormVariant extends RowVariant {
  epsilon: number;
}

/** Elements of a row that a thread should have: with fewer, the sum over the threads would take most of the time. */
const ELEMENTS_PER_THREAD = 4;

/** A power of two, as `rowSum` needs. */
function threadsOf({channels}: RowVariant): number {
  const wanted = 2 ** Math.ceil(Math.log2(elementsOf(channels) / ELEMENTS_PER_THREAD));
  return Math.min(256, Math.max(64, wanted));
}

const row = (name: string, {channels}: RowVariant): Binding => ({name, type: elementType(channels), access: 'read'});

/** Declares `rowSum`: the sum of the values of all threads of the workgroup, which all get it. */
const declarations = (v: RowVariant): string => `
const ELEMENTS = ${elementsOf(v.channels)}u;
const THREADS = ${threadsOf(v)}u;
var<workgroup> sums: array<f32, THREADS>;

fn rowSum(lid: u32, value: f32) -> f32 {
  sums[lid] = value;
  for (var reach = THREADS / 2u; reach > 0u; reach /= 2u) {
    workgroupBarrier();
    if (lid < reach) { sums[lid] += sums[lid + reach]; }
  }
  workgroupBarrier();
  return sums[0];
}
`;

/** WGSL that runs `body` for each element of the row that a thread has: the i-th of the row is at `at`. */
const forEachElement = (body: string): string => `
for (var i = lid; i < ELEMENTS; i += THREADS) {
  let at = item * ELEMENTS + i;
  ${body}
}`;

/** WGSL that adds up the products of two elements. */
const product = ({channels}: RowVariant, a: string, b: string): string =>
  elementType(channels) === 'vec4f' ? `dot(${a}, ${b})` : `${a} * ${b}`;

/** The second loop finds the row in the cache. */
export const rmsNorm: Shader<RmsNormVariant> = {
  name: 'rms_norm',
  fields: {channels: true, epsilon: true},
  bindings: (v) => [
    row('x', v),
    row('gamma', v),
    {...row('result', v), access: 'read_write'},
    {name: 'inverse', type: 'f32', access: 'read_write'},
  ],
  threads: threadsOf,
  item: 'workgroup',
  uniforms: LAYER_UNIFORMS,
  declarations,
  body: (v) => `
var squares = 0.0;
${forEachElement(`squares += ${product(v, 'x[at]', 'x[at]')};`)}
let factor = inverseSqrt(rowSum(lid, squares) / ${v.channels}f + ${v.epsilon}f);
${forEachElement('result[at] = x[at] * factor * gamma[i];')}
if (lid == 0u) { inverse[item] = factor; }`,
};

export const rmsNormGrad: Shader<RowVariant> = {
  name: 'rms_norm_grad',
  fields: {channels: true},
  bindings: (v) => [
    row('x', v),
    row('gamma', v),
    {name: 'inverse', type: 'f32', access: 'read'},
    row('dy', v),
    {...row('dx', v), access: 'read_write'},
  ],
  threads: threadsOf,
  item: 'workgroup',
  uniforms: LAYER_UNIFORMS,
  declarations,
  body: (v) => `
let factor = inverse[item];
var products = 0.0;
${forEachElement(`products += ${product(v, 'dy[at] * gamma[i]', '(x[at] * factor)')};`)}
let mean = rowSum(lid, products) / ${v.channels}f;
${forEachElement('dx[at] = (dy[at] * gamma[i] - x[at] * factor * mean) * factor;')}`,
};
