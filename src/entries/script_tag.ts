/**
 * @file Entry of the script-tag bundle: adds the op and what it needs to the page's global `tf`. Everything that the page entries of the
 * package export is in the global `flashmask` too.
 */
import {FlashMask, flashMaskAttention, masks} from './index.js';

export * from './index.js';
export {autotune, clearAutotuneCache, createWebGPUBackend, prepareAttention} from './webgpu.js';

// The build has checked, by the module that stands for tfjs-core, that the page has loaded tfjs before.
Object.assign((globalThis as unknown as {tf: object}).tf, {FlashMask, flashMaskAttention, masks});
