/** @file What the shaders of the layers (src/layers) share. */
import type {Uniform} from '../header.js';

/**
 * The uniforms of a layer, in order. Sizes that change from call to call are the lengths of the bindings. The channels
 * are a constant, as they are the model's.
 */
export const LAYER_UNIFORMS = [
  ['firstWorkgroup', 'u32'],
  ['gridX', 'u32'],
  ['workEnd', 'u32'],
] as const satisfies readonly Uniform[];
