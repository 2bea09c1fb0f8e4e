/**
 * @file Entry of the script-tag bundle: adds the op, `FlashMask` and `masks` to the page's global `tf`. The global
 * `flashmask` has everything that the page entries of the package export.
 */
import {FlashMask, flashMaskAttention, masks} from './index.js';

export * from './index.js';
export {autotune, clearAutotuneCache, createWebGPUBackend, prepareAttention} from './webgpu.js';

// The page has loaded tfjs: the module that replaces tfjs-core in this bundle has already checked it.
Object.assign((globalThis as unknown as {tf: object}).tf, {FlashMask, flashMaskAttention, masks});
