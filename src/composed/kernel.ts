/** @file The two kernels composed from tfjs ops, for backends without kernels of their own. */
import {
  type KernelConfig,
  type Tensor,
  type TensorInfo,
  engine,
  getKernel,
  registerKernel,
} from '@tensorflow/tfjs-core';
import {type FlashMaskAttentionAttrs, FlashMaskAttention, FlashMaskAttentionGrad} from '../kernel_names.js';
import {type BackwardTensors, composedBackward} from './backward.js';
import type {ForwardTensors} from './blocks.js';
import {composedForward} from './forward.js';

/** The composed kernels as tfjs registers them for a backend. */
export function composedConfigs(backendName: string): KernelConfig[] {
  return [
    {
      kernelName: FlashMaskAttention,
      backendName,
      kernelFunc: ({inputs, attrs}) =>
        withTensors<ForwardTensors>(inputs, (x) => composedForward(x, attrs as unknown as FlashMaskAttentionAttrs)),
    },
    {
      kernelName: FlashMaskAttentionGrad,
      backendName,
      kernelFunc: ({inputs, attrs}) =>
        withTensors<BackwardTensors>(inputs, (x) => composedBackward(x, attrs as unknown as FlashMaskAttentionAttrs)),
    },
  ];
}

/** Gives a backend that has no kernels of its own the composed ones. Called before a kernel runs. */
export function ensureKernels(backendName: string): void {
  for (const config of composedConfigs(backendName)) {
    if (!getKernel(config.kernelName, backendName)) registerKernel(config);
  }
}

/** The op and the gradient give kernels real tensors, so tfjs ops can run on them, off the tape. */
function withTensors<T>(inputs: Record<string, TensorInfo | undefined>, run: (tensors: T) => Tensor[]): TensorInfo[] {
  return engine().tidy(() => run(inputs as unknown as T));
}
