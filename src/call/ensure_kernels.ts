/** @file Makes sure that a backend has the two kernels before the op runs on it. */
import {getKernel} from '@tensorflow/tfjs-core';
import {fail} from './errors.js';
import {FlashMaskAttention, FlashMaskAttentionGrad} from './kernel_names.js';

/** Registers kernels for a backend that has none. */
type KernelProvider = (backendName: string) => void;

/**
 * A variable instead of an import, so that the entry 'tfjs-flashmask/webgpu' does not bundle the kernels composed from
 * tfjs ops.
 */
let provider: KernelProvider | null = null;

export function setKernelProvider(provide: KernelProvider): void {
  provider = provide;
}

/** @throws Error if the backend has no kernels and no imported entry provides them. */
export function ensureKernels(backendName: string): void {
  if (getKernel(FlashMaskAttention, backendName) && getKernel(FlashMaskAttentionGrad, backendName)) return;
  if (provider === null) {
    const rule = "the backend must be 'webgpu' where 'tfjs-flashmask/webgpu' alone is imported";
    fail(
      'flashMaskAttention',
      rule,
      `'${backendName}'`,
      "Import 'tfjs-flashmask', which has kernels for every backend.",
    );
  }
  provider(backendName);
}
