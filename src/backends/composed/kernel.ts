/** @file The two kernels composed from tfjs ops, for backends without native kernels. */
import {type KernelConfig, getKernel, registerKernel} from '@tensorflow/tfjs-core';
import {kernelConfig} from '../../call/kernel_config.js';
import {FlashMaskAttention, FlashMaskAttentionGrad} from '../../call/kernel_names.js';
import {type BackwardTensors, composedBackward} from './backward.js';
import type {ForwardTensors} from './blocks.js';
import {composedForward} from './forward.js';

/**
 * The composed kernels as tfjs registers them for a backend. The op and the gradient pass real tensors to kernels, not
 * only TensorInfos, so tfjs ops can run on them. Inside a kernel the tape records nothing.
 */
export function composedConfigs(backendName: string): KernelConfig[] {
  return [
    kernelConfig<ForwardTensors, unknown>(FlashMaskAttention, backendName, ({inputs, attrs}) =>
      composedForward(inputs, attrs),
    ),
    kernelConfig<BackwardTensors, unknown>(FlashMaskAttentionGrad, backendName, ({inputs, attrs}) =>
      composedBackward(inputs, attrs),
    ),
  ];
}

/** Registers the composed kernels for a backend that has no kernels. */
export function provideComposedKernels(backendName: string): void {
  const missing = composedConfigs(backendName).filter(({kernelName}) => !getKernel(kernelName, backendName));
  if (missing.length > 0 && backendName === 'tensorflow') {
    console.warn(
      "flashMaskAttention: the backend 'tensorflow' must have the native kernels to be fast, got none registered. Add " +
        "`import 'tfjs-flashmask/node'`. Until then the kernels composed from tfjs ops run.",
    );
  }
  missing.forEach(registerKernel);
}
