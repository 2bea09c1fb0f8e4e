/** @file The package's main entry: exports, and the one side effect of importing it, which registers kernels and gradients. */
import {addChainedOp} from '../ops/chained.js';
import {register} from './register.js';

register();
addChainedOp();

export * from '../ops/index.js';
export {masks} from './mask/builders.js';
export {FlashMask} from './mask/flash_mask.js';
export {clearBoundsCache} from './mask/bounds_cache.js';
export {
  type FlashMaskAttentionAttrs,
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type Layout,
  type Precision,
} from './kernel_names.js';
export {type CreateWebGPUBackendOptions, type WebGPUKernelBackend, createWebGPUBackend} from './webgpu_backend.js';
