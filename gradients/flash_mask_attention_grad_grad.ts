/**
 * @file The gradient of FlashMaskAttentionGrad, one for all backends: composed from tfjs ops, tile by tile, so that it
 * is differentiable again.
 */
import {type GradConfig, type NamedAttrMap, type Tensor, add, engine, zeros, zerosLike} from '@tensorflow/tfjs-core';
import {composedSecondOrder} from '../src/backends/composed/second_order.js';
import {ensureKernels} from '../src/call/ensure_kernels.js';
import {type FlashMaskAttentionAttrs, FlashMaskAttention, FlashMaskAttentionGrad} from '../src/call/kernel_names.js';

/**
 * Gradient of FlashMaskAttentionGrad, for the gradient of a gradient: the total one in q, k, v, dOut and dLse, with out
 * and lse as what they are, functions of q, k and v. For tfjs saves a kernel's outputs as clones that its tape puts
 * before the kernel, so that nothing ever flows back through them (its own exp has no second derivative, for that
 * reason). Hence out and lse are computed anew here, where the tape, if it is on, sees them made; and the inputs out
 * and rowStats themselves get zeros.
 */
export const gradientOfGradient: GradConfig = {
  kernelName: FlashMaskAttentionGrad,
  inputsToSave: ['q', 'k', 'v', 'bounds', 'dOut', 'dLse'],
  gradFunc: (dy: Tensor | Tensor[], saved: Tensor[], attrs: NamedAttrMap): Record<string, () => Tensor> => {
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
