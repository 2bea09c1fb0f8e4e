/** @file Exports that both page entries share: the op, masks and their types. Importing it registers nothing. */
export * from '../../ops/index.js';
// Re-exporting a type of this file makes TypeScript read its declarations, and so the method that it adds to Tensor.
export type {ChainedFlashMaskAttention} from '../../ops/chained.js';
export * as masks from '../mask/builders/index.js';
export {hashOrder} from '../mask/builders/selected.js';
export {FlashMask, type FlashMaskFields, type TileOptions} from '../mask/flash_mask.js';
export {clearBoundsCache} from '../mask/bounds/bounds_cache.js';
export {
  type FlashMaskAttentionAttrs,
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type Layout,
  type Precision,
} from '../call/kernel_names.js';
export type {Nested} from '../mask/builders/nested.js';
export type {Numbers, PackedOptions, PerBatch} from '../mask/builders/arguments.js';
export type {QueryOptions, Spans, WindowOptions} from '../mask/builders/index.js';
export type {DenseOptions, RowIndicesOptions, SegmentOptions} from '../mask/builders/conversions.js';
export type {PaddingOptions, SegmentBoundsOptions} from '../mask/builders/on_device.js';
export type {Group} from '../mask/builders/packed.js';
export {type SVGOptions, toSVG} from '../mask/pictures/svg.js';
export type {TextOptions} from '../mask/pictures/text.js';
export type {EvictionOptions} from '../mask/builders/selected.js';
export type {HostBounds, Vectors} from '../mask/bounds/intervals.js';
export type {Sparsity} from '../mask/bounds/visible.js';
