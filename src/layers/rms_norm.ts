/** @file RMSNorm (Zhang and Sennrich, arXiv 1910.07467), with a gradient that keeps one number a row. */
import {
  type GradSaveFunc,
  type Rank,
  type Tensor,
  type Tensor1D,
  type Tensor2D,
  Variable,
  add,
  customGrad,
  fill,
  matMul,
  mul,
  ones,
  reshape,
  rsqrt,
  square,
  sub,
  tidy,
} from '@tensorflow/tfjs-core';
import {runLayer} from './kernel.js';

/**
 * The mean of each row. A product with a constant vector, because on CPU adapters tfjs's row reductions take longer
 * than the model's matrix products.
 */
function rowMean(y: Tensor): Tensor2D {
  const [, channels] = y.shape;
  return matMul(y as Tensor2D, fill([channels, 1], 1 / channels));
}

function forward(x: Tensor2D, gamma: Tensor1D, epsilon: number): Tensor[] {
  return runLayer('FlashMaskRmsNorm', {x, gamma}, {epsilon}, () => {
    const inverse = rsqrt(add(rowMean(square(x)), epsilon));
    return [mul(mul(x, inverse), gamma), inverse];
  });
}

function inputGradient(x: Tensor2D, gamma: Tensor1D, inverse: Tensor2D, dy: Tensor2D): Tensor {
  const [dx] = runLayer('FlashMaskRmsNormGrad', {x, gamma, inverse, dy}, {}, () => {
    const unit = mul(x, inverse);
    const dUnit = mul(dy, gamma);
    return [mul(sub(dUnit, mul(unit, rowMean(mul(dUnit, unit)))), inverse)];
  });
  return dx;
}

function gammaGradient(x: Tensor2D, inverse: Tensor2D, dy: Tensor2D): Tensor {
  const [dgamma] = runLayer('FlashMaskRmsNormGammaGrad', {x, inverse, dy}, {}, () => {
    const [rows, channels] = x.shape;
    const product: Tensor2D = mul(dy, mul(x, inverse));
    return [reshape(matMul(ones<Rank.R2>([1, rows]), product), [channels])];
  });
  return dgamma;
}

/**
 * `x / sqrt(mean(x²) + epsilon) * gamma` over the channels of `x [N, channels]`. Differentiable by x, and by gamma if
 * it is a variable.
 */
export function rmsNorm(x: Tensor2D, gamma: Tensor1D, epsilon: number): Tensor2D {
  const trained = gamma instanceof Variable;
  const norm = customGrad((...args) => {
    const input = args[0] as Tensor2D;
    const save = args.at(-1) as unknown as GradSaveFunc;
    const [value, inverse] = forward(input, gamma, epsilon);
    save([input, inverse, gamma]);
    const gradFunc = (dy: Tensor, saved: Tensor[]) => {
      const [again, inverseSaved, scale] = saved as [Tensor2D, Tensor2D, Tensor1D];
      // tfjs frees the temporaries of a gradient function only at the end of the backward pass.
      return tidy(() => {
        const dx = inputGradient(again, scale, inverseSaved, dy as Tensor2D);
        return trained ? [dx, gammaGradient(again, inverseSaved, dy as Tensor2D)] : [dx];
      });
    };
    return {value, gradFunc};
  });
  return (trained ? norm(x, gamma) : norm(x)) as Tensor2D;
}
