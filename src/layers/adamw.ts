/** @file A step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) for one tensor of weights. */
import {type Tensor, type Tensor1D, add, div, mul, slice, sqrt, square, sub} from '@tensorflow/tfjs-core';
import {runLayer} from './kernel.js';

/** What a step reads of the weights: all have one shape. */
export interface AdamWTensors {
  gradient: Tensor;
  m: Tensor;
  v: Tensor;
  value: Tensor;
}

export interface AdamWRates {
  beta1: number;
  beta2: number;
  /** Whether the weights decay. */
  decays: boolean;
}

/**
 * The new m, v and value. With the gradient g · shrink, and factors e, r and d that the host computes for step t:
 *
 *     m = β₁m + (1 - β₁)g;  v = β₂v + (1 - β₂)g²;  value = d·value - r·m / (√v + e)
 *
 * For PyTorch's AdamW e is ε·√(1 - β₂ᵗ), r is rate·√(1 - β₂ᵗ) / (1 - β₁ᵗ), and d is 1 - rate·decay.
 *
 * @param shrink `[]`: the factor that clips the gradient.
 * @param factors `[e, r, d]`
 */
export function adamwStep(
  {gradient, m, v, value}: AdamWTensors,
  shrink: Tensor,
  factors: Tensor1D,
  {beta1, beta2, decays}: AdamWRates,
): Tensor[] {
  return runLayer('FlashMaskAdamW', {gradient, m, v, value, shrink, factors}, {beta1, beta2, decays}, () => {
    const factor = (i: number): Tensor => slice(factors, [i], [1]);
    const part = mul(gradient, mul(shrink, 1 - beta1));
    const newM = add(mul(m, beta1), part);
    const newV = add(mul(v, beta2), mul(square(part), (1 - beta2) / (1 - beta1) ** 2));
    const move = mul(div(newM, add(sqrt(newV), factor(0))), factor(1));
    return [newM, newV, sub(decays ? mul(value, factor(2)) : value, move)];
  });
}
