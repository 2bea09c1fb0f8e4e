/** @file The gated unit of SwiGLU (src/layers/gated_unit.ts) and its gradient, one thread per element. */
import type {elementType} from '../header.js';
import type {Shader} from '../shader.js';
import {LAYER_UNIFORMS} from './layer.js';

/** Elements are vec4f if the tensors are a whole number of them, otherwise f32. */
export interface GatedUnitVariant {
  element: ReturnType<typeof elementType>;
}

/** Declares `sigmoid`. Its power is at most 1, so that finite numbers make no infinity, whose product could be NaN. */
const sigmoidFunction = ({element}: GatedUnitVariant): string => `
fn sigmoid(x: ${element}) -> ${element} {
  let power = exp(-abs(x));
  return select(power, ${element}(1.0), x >= ${element}()) / (1.0 + power);
}
`;

export const gatedUnit: Shader<GatedUnitVariant> = {
  name: 'gated_unit',
  fields: {element: true},
  bindings: ({element}) => [
    {name: 'gate', type: element, access: 'read'},
    {name: 'up', type: element, access: 'read'},
    {name: 'result', type: element, access: 'read_write'},
  ],
  threads: () => 256,
  item: 'thread',
  uniforms: LAYER_UNIFORMS,
  declarations: sigmoidFunction,
  body: () => `
let g = gate[item];
result[item] = g * sigmoid(g) * up[item];`,
};

export const gatedUnitGrad: Shader<GatedUnitVariant> = {
  name: 'gated_unit_grad',
  fields: {element: true},
  bindings: ({element}) => [
    {name: 'gate', type: element, access: 'read'},
    {name: 'up', type: element, access: 'read'},
    {name: 'dy', type: element, access: 'read'},
    {name: 'dGate', type: element, access: 'read_write'},
    {name: 'dUp', type: element, access: 'read_write'},
  ],
  threads: () => 256,
  item: 'thread',
  uniforms: LAYER_UNIFORMS,
  declarations: sigmoidFunction,
  body: () => `
let g = gate[item];
let d = dy[item];
let s = sigmoid(g);
let silu = g * s;
dGate[item] = d * up[item] * (s + silu * (1.0 - s));
dUp[item] = d * silu;`,
};
