/**
 * @file The gradients of both kernels, one for all backends: FlashMaskAttention's is the kernel FlashMaskAttentionGrad, and
 * FlashMaskAttentionGrad's is composed from tfjs ops, tile by tile, so that it is differentiable itself.
 */
import {type GradConfig, type NamedAttrMap, type Tensor, engine, zeros} from '@tensorflow/tfjs-core';
import {ensureKernels} from '../src/composed/kernel.js';
import {composedSecondOrder} from '../src/composed/second_order.js';
import {type FlashMaskAttentionAttrs, FlashMaskAttention, FlashMaskAttentionGrad} from '../src/kernel_names.js';

/** Gradient of FlashMaskAttention: one run of FlashMaskAttentionGrad gives dq, dk and dv. */
export const flashMaskAttentionGradientConfig: GradConfig = {
  kernelName: FlashMaskAttention,
  inputsToSave: ['q', 'k', 'v', 'bounds'],
  outputsToSave: [true, true],
  gradFunc: (dy: Tensor | Tensor[], saved: Tensor[], attrs: NamedAttrMap): Record<string, () => Tensor> => {
    const [dOut, dLse] = dy as Tensor[];
    const [q, k, v, bounds, out, lse] = saved;
    ensureKernels(engine().backendName);
    // Run here and not in the thunks: tfjs tidies each thunk on its own, and would run the kernel up to three times.
    const inputs = {q, k, v, bounds, out, lse, dOut, dLse};
    const [dq, dk, dv] = engine().runKernel<Tensor[]>(FlashMaskAttentionGrad, inputs, attrs);
    return {q: () => dq, k: () => dk, v: () => dv, bounds: () => zeros(bounds.shape)};
  },
};

/** Gradient of FlashMaskAttentionGrad, for the gradient of a gradient. */
export const flashMaskAttentionGradGradConfig: GradConfig = {
  kernelName: FlashMaskAttentionGrad,
  inputsToSave: ['q', 'k', 'v', 'bounds', 'out', 'lse', 'dOut', 'dLse'],
  gradFunc: (dy: Tensor | Tensor[], saved: Tensor[], attrs: NamedAttrMap): Record<string, () => Tensor> => {
    const [q, k, v, bounds, out, lse, dOut, dLse] = saved;
    const [ddq, ddk, ddv] = dy as Tensor[];
    const inputs = {q, k, v, bounds, out, lse, dOut, dLse};
    const d = composedSecondOrder(inputs, {ddq, ddk, ddv}, attrs as unknown as FlashMaskAttentionAttrs);
    return {
      q: () => d.q,
      k: () => d.k,
      v: () => d.v,
      bounds: () => zeros(bounds.shape),
      out: () => d.out,
      lse: () => d.lse,
      dOut: () => d.dOut,
      dLse: () => d.dLse,
    };
  },
};
