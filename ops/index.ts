/** @file The ops. */
export {flashMaskAttention} from './flash_mask_attention.js';
export type {FlashMaskAttentionOp, FlashMaskAttentionOptions, MaskLike} from './flash_mask_attention.js';
