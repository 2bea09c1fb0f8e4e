/** @file The rotation of heads (src/layers/rotate.ts). */
import {elementType} from '../header.js';
import type {Shader} from '../shader.js';
import {elementsOf} from '../vector/combine.js';
import {LAYER_UNIFORMS} from './layer.js';

export interface RotateVariant {
  /** Heads of a token. */
  H: number;
  /** Channels of a head, an even number. */
  D: number;
  /** Rotates the other way. */
  back: boolean;
}

/** The threads of a token: one per element of the first halves of its heads. */
export const rotateThreads = ({H, D}: Pick<RotateVariant, 'H' | 'D'>): number => H * elementsOf(D / 2);

/** One thread rotates an element of the first half of a head and its partner in the second half. */
export const rotate: Shader<RotateVariant> = {
  name: 'rotate',
  fields: {H: true, D: true, back: true},
  bindings: ({D}) => [
    {name: 'x', type: elementType(D / 2), access: 'read'},
    {name: 'cosines', type: elementType(D / 2), access: 'read'},
    {name: 'sines', type: elementType(D / 2), access: 'read'},
    {name: 'result', type: elementType(D / 2), access: 'read_write'},
  ],
  threads: () => 256,
  item: 'thread',
  uniforms: LAYER_UNIFORMS,
  declarations: ({D}) => `const HALF = ${elementsOf(D / 2)}u;`,
  body: ({H, D, back}) => `
let token = item / ${rotateThreads({H, D})}u;
let head = item / HALF;
let i = item % HALF;
let left = head * 2u * HALF + i;
let right = left + HALF;
let angle = token * 2u * HALF + i;
let a = x[left];
let b = x[right];
result[left] = a * cosines[angle] ${back ? '-' : '+'} b * sines[angle];
result[right] = b * cosines[angle + HALF] ${back ? '-' : '+'} a * sines[angle + HALF];`,
};
