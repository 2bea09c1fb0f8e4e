/** @file The two kernels as tfjs registers them for the backend 'webgpu'. */
import type {KernelConfig} from '@tensorflow/tfjs-core';
import {kernelConfig} from '../../call/kernel_config.js';
import {
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type FlashMaskAttentionGradInputs,
  type FlashMaskAttentionInputs,
} from '../../call/kernel_names.js';
import type {WebGPUBackend} from './run/tfjs_backend.js';
import {backward} from './backward.js';
import {watchBackend} from './run/device_errors.js';
import {forward} from './forward.js';

export const flashMaskAttentionConfig: KernelConfig = {
  ...kernelConfig<FlashMaskAttentionInputs, WebGPUBackend>(FlashMaskAttention, 'webgpu', ({inputs, attrs, backend}) =>
    forward(backend, inputs, attrs),
  ),
  // tfjs calls this when a backend becomes current. A backend that was current before this library was loaded is
  // watched from its first call on.
  setupFunc: (backend) => void watchBackend(backend as WebGPUBackend),
};

export const flashMaskAttentionGradConfig = kernelConfig<FlashMaskAttentionGradInputs, WebGPUBackend>(
  FlashMaskAttentionGrad,
  'webgpu',
  ({inputs, attrs, backend}) => backward(backend, inputs, attrs),
);
