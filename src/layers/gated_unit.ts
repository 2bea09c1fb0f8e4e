/** @file The gated unit of SwiGLU (Shazeer, arXiv 2002.05202), with a gradient that keeps its inputs alone. */
import {
  type GradSaveFunc,
  type Tensor,
  type Tensor2D,
  add,
  customGrad,
  mul,
  sigmoid,
  sub,
  tidy,
} from '@tensorflow/tfjs-core';
import {runLayer} from './kernel.js';

function gradients(gate: Tensor, up: Tensor, dy: Tensor): Tensor[] {
  return runLayer('FlashMaskGatedUnitGrad', {gate, up, dy}, {}, () => {
    const gates = sigmoid(gate);
    const silu = mul(gate, gates);
    // d silu / dx. Not sigmoid + silu - silu · sigmoid, which cancels for large gates.
    const slope = add(gates, mul(silu, sub(1, gates)));
    return [mul(mul(dy, up), slope), mul(dy, silu)];
  });
}

/** `silu(gate) * up`, with silu(x) = x · sigmoid(x). Differentiable by both, `[N, channels]`. */
export function gatedUnit(gate: Tensor2D, up: Tensor2D): Tensor2D {
  const unit = customGrad((...args) => {
    const [g, u, save] = args as unknown as [Tensor2D, Tensor2D, GradSaveFunc];
    save([g, u]);
    const gradFunc = (dy: Tensor, saved: Tensor[]) => tidy(() => gradients(saved[0], saved[1], dy));
    const [value] = runLayer('FlashMaskGatedUnit', {gate: g, up: u}, {}, () => [mul(mul(sigmoid(g), g), u)]);
    return {value, gradFunc};
  });
  return unit(gate, up) as Tensor2D;
}
