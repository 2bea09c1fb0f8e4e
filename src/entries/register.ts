/**
 * @file Registers the kernels and the gradients with tfjs: two explicit arrays (a backend that is not in them gets the
 * composed kernels when the op first runs on it: src/backends/composed/kernel.ts). Everything is skipped when already there, so importing
 * the library twice, or beside a second copy of tfjs-core (whose registry is the same global one), changes and prints nothing.
 */
import {
  type GradConfig,
  type KernelConfig,
  getGradient,
  getKernel,
  registerGradient,
  registerKernel,
} from '@tensorflow/tfjs-core';
import {gradientOfGradient, gradientOfAttention} from '../../gradients/flash_mask_attention_grad.js';
import {
  flashMaskAttentionConfig as cpuForward,
  flashMaskAttentionGradConfig as cpuBackward,
} from '../backends/cpu/kernel.js';
import {
  flashMaskAttentionConfig as webgpuForward,
  flashMaskAttentionGradConfig as webgpuBackward,
} from '../backends/webgpu/kernel.js';

const kernels: KernelConfig[] = [webgpuForward, webgpuBackward, cpuForward, cpuBackward];

const gradients: GradConfig[] = [gradientOfAttention, gradientOfGradient];

/** Registers everything that is not registered yet. Importing the library calls it. */
export function register(): void {
  kernels.forEach(registerKernelOnce);
  gradients.filter(({kernelName}) => !getGradient(kernelName)).forEach(registerGradient);
}

function registerKernelOnce(config: KernelConfig): void {
  if (!getKernel(config.kernelName, config.backendName)) registerKernel(config);
}
