/** @file The four projections of multi-head attention, in the layout of Keras's EinsumDense. */
import {type Tensor, type Tensor2D, add, matMul, reshape} from '@tensorflow/tfjs-core';
import type {LayerVariable} from '@tensorflow/tfjs-layers';

/** The weights of a projection. */
export interface Projection {
  kernel: LayerVariable;
  bias: LayerVariable | null;
}

/**
 * The product of the last `bound` axes of x with a kernel whose first `bound` axes are these, plus the bias.
 *
 * @returns `[tokens, channels]`: all other axes of x together, and all other axes of the kernel.
 */
export function project(x: Tensor, {kernel, bias}: Projection, bound: number): Tensor2D {
  const weight = kernel.read();
  const rows = sizeOf(weight.shape.slice(0, bound));
  const columns = sizeOf(weight.shape.slice(bound));
  const product: Tensor2D = matMul(reshape(x, [x.size / rows, rows]), reshape(weight, [rows, columns]));
  return bias === null ? product : (add(product, reshape(bias.read(), [columns])) as Tensor2D);
}

const sizeOf = (shape: number[]): number => shape.reduce((a, b) => a * b, 1);
