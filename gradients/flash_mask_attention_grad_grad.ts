/**
 * @file The gradient of FlashMaskAttentionGrad, one for all backends: composed from tfjs ops, tile by tile, so that it
 * is differentiable again.
 */
import {type GradConfig, type NamedAttrMap, type Tensor, add, engine, zeros, zerosLike} from '@tensorflow/tfjs-core';
import {composedSecondOrder} from '../src/backends/composed/second_order.js';
import {ensureKernels} from '../src/call/ensure_kernels.js';
import {type FlashMaskAttentionAttrs, FlashMaskAttention, FlashMaskAttentionGrad} from '../src/call/kernel_names.js';

/**
 * Gradient of FlashMaskAttentionGrad, for the gradient of a gradient: the total gradient in q, k, v, dOut and dLse. It
 * treats out and lse as functions of q, k and v. tfjs saves kernel outputs as clones that its tape does not connect to
 * their inputs, so no gradient flows back through them. (For the same reason, tfjs's own exp has no second derivative.)
 * So out and lse are recomputed here, where the tape, if it is on, records them. The saved out and rowStats get zero
 * gradients.
 */
export const gradientOfGradient: GradConfig = {
  kernelName: FlashMaskAttentionGrad,
  inputsToSave: ['q', 'k', 'v', 'bounds', 'dOut', 'dLse'],
  gradFunc: (dy: Tensor | Tensor[], saved: Tensor[], given: NamedAttrMap): Record<string, () => Tensor> => {
    // Here gradients come through lse, even if the caller does not see it.
    const attrs = {...given, lseUnused: false};
    const [q, k, v, bounds, dOut, dLse] = saved;
    const [ddq, ddk, ddv] = dy as Tensor[];
    ensureKernels(engine().backendName);
    const [out, lse, rowStats] = engine().runKernel<Tensor[]>(FlashMaskAttention, {q, k, v, bounds}, attrs);
    const inputs = {q, k, v, bounds, out, lse, dOut, dLse};
    const d = composedSecondOrder(inputs, {ddq, ddk, ddv}, attrs as unknown as FlashMaskAttentionAttrs);
    const through = {q, k, v, bounds, out, rowStats, dOut: d.out, dLse: d.lse};
    const [dq, dk, dv] = engine().runKernel<Tensor[]>(FlashMaskAttentionGrad, through, attrs);
    return {
      q: () => add(d.q, dq),
      k: () => add(d.k, dk),
      v: () => add(d.v, dv),
      bounds: () => zeros(bounds.shape),
      out: () => zerosLike(out),
      rowStats: () => zerosLike(rowStats),
      dOut: () => d.dOut,
      dLse: () => d.dLse,
    };
  },
};
