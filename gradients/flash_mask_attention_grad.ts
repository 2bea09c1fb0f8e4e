/** @file The gradient of FlashMaskAttention, one for all backends: the kernel FlashMaskAttentionGrad. */
import {type GradConfig, type NamedAttrMap, type Tensor, engine, zeros} from '@tensorflow/tfjs-core';
import {ensureKernels} from '../src/call/ensure_kernels.js';
import {FlashMaskAttention, FlashMaskAttentionGrad} from '../src/call/kernel_names.js';

/** Gradient of FlashMaskAttention: one run of FlashMaskAttentionGrad gives dq, dk and dv. */
export const gradientOfAttention: GradConfig = {
  kernelName: FlashMaskAttention,
  inputsToSave: ['q', 'k', 'v', 'bounds'],
  outputsToSave: [true, false, true],
  gradFunc: (dy: Tensor | Tensor[], saved: Tensor[], attrs: NamedAttrMap): Record<string, () => Tensor> => {
    const [dOut, dLse] = dy as Tensor[];
    const [q, k, v, bounds, ...results] = saved;
    ensureKernels(engine().backendName);
    const [out, rowStats] = isHere(results[1]) ? results : recompute({q, k, v, bounds}, attrs);
    // Run here and not in the thunks: tfjs tidies each thunk separately, so the kernel would run up to three times.
    const inputs = {q, k, v, bounds, out, rowStats, dOut, dLse};
    const [dq, dk, dv] = engine().runKernel<Tensor[]>(FlashMaskAttentionGrad, inputs, attrs);
    return {q: () => dq, k: () => dk, v: () => dv, bounds: () => zeros(bounds.shape)};
  },
};

/**
 * Whether the current backend made this tensor. Row statistics are in the unit of the kernel that made them, so another
 * backend cannot use them.
 */
function isHere({dataId}: Tensor): boolean {
  const {state, backend} = engine();
  return state.tensorInfo.get(dataId)?.backend === backend;
}

/**
 * Computes out and the row statistics again on the current backend, because the user changed the backend after the
 * forward pass.
 */
function recompute(inputs: Record<string, Tensor>, attrs: NamedAttrMap): Tensor[] {
  const [out, , rowStats] = engine().runKernel<Tensor[]>(FlashMaskAttention, inputs, attrs);
  return [out, rowStats];
}
