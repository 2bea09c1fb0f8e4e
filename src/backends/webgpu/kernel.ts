/** @file The two kernels as tfjs registers them for the backend 'webgpu'. */
import type {KernelConfig} from '@tensorflow/tfjs-core';
import {
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type FlashMaskAttentionAttrs,
  type FlashMaskAttentionGradInputs,
  type FlashMaskAttentionInputs,
} from '../../call/kernel_names.js';
import type {WebGPUBackend} from './run/tfjs_backend.js';
import {backward} from './backward.js';
import {watchBackend} from './run/device_errors.js';
import {forward} from './forward.js';

export const flashMaskAttentionConfig: KernelConfig = {
  kernelName: FlashMaskAttention,
  backendName: 'webgpu',
  // tfjs calls it when a backend becomes current; one that did so before this library was loaded is watched from its first call on.
  setupFunc: (backend) => void watchBackend(backend as WebGPUBackend),
  kernelFunc: ({inputs, backend, attrs}) =>
    forward(
      backend as WebGPUBackend,
      inputs as unknown as FlashMaskAttentionInputs,
      attrs as unknown as FlashMaskAttentionAttrs,
    ),
};

export const flashMaskAttentionGradConfig: KernelConfig = {
  kernelName: FlashMaskAttentionGrad,
  backendName: 'webgpu',
  kernelFunc: ({inputs, backend, attrs}) =>
    backward(
      backend as WebGPUBackend,
      inputs as unknown as FlashMaskAttentionGradInputs,
      attrs as unknown as FlashMaskAttentionAttrs,
    ),
};
