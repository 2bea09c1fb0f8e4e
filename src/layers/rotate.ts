/** @file Rotary position embeddings (RoPE, Su et al., arXiv 2104.09864) by tables of cosines and sines. */
import {
  type GradSaveFunc,
  type Tensor,
  type Tensor2D,
  type Tensor3D,
  add,
  customGrad,
  mul,
  reshape,
  reverse,
  sub,
  tidy,
} from '@tensorflow/tfjs-core';
import {runLayer} from './kernel.js';

/** Cosines and signed sines of a call's tokens, `[N, 1, headSize]`. */
export interface RotaryTables {
  cosines: Tensor3D;
  /** Negative in the first half of the channels. */
  sines: Tensor3D;
}

function turn(x: Tensor, {cosines, sines}: RotaryTables, back: boolean): Tensor {
  const [rotated] = runLayer('FlashMaskRotate', {x, cosines, sines}, {back}, () => {
    const [tokens, channels] = x.shape;
    const headSize = cosines.shape[2];
    const byHead: [number, number, number] = [tokens, channels! / headSize, headSize];
    const halves: [number, number, number] = [(tokens * channels!) / headSize, 2, headSize / 2];
    const swapped = mul(reshape(reverse(reshape(x, halves), 1), byHead), sines);
    const straight = mul(reshape(x, byHead), cosines);
    return [reshape((back ? sub : add)(straight, swapped), x.shape)];
  });
  return rotated;
}

/**
 * Rotates the heads of `x [N, heads · headSize]`: channels i and i + headSize / 2 of a head together, as in
 * transformers. The gradient rotates the other way.
 */
export function rotate(x: Tensor2D, tables: RotaryTables): Tensor2D {
  const rotated = customGrad((...args) => {
    const [input, save] = args as unknown as [Tensor2D, GradSaveFunc];
    save([tables.cosines, tables.sines]);
    const gradFunc = (dy: Tensor, [cosines, sines]: Tensor[]) =>
      tidy(() => turn(dy, {cosines: cosines as Tensor3D, sines: sines as Tensor3D}, true));
    return {value: turn(input, tables, false), gradFunc};
  });
  return rotated(x) as Tensor2D;
}
