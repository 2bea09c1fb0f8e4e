/** @file The package's main entry: exports, and the one side effect of importing it, which registers kernels and gradients. */
// Once for its function and once more for its types: only this form stays in the declarations.
import '../ops/chained.js';
import {addChainedOp} from '../ops/chained.js';
import {register} from './register.js';

register();
addChainedOp();

export * from '../ops/index.js';
export {hashOrder, masks} from './mask/builders.js';
export {FlashMask, type FlashMaskFields, type TileOptions} from './mask/flash_mask.js';
export {clearBoundsCache} from './mask/bounds_cache.js';
export {type AutotuneOptions, type TunedPass, autotune} from './autotune.js';
export {clearAutotuneCache} from './webgpu/tuning_cache.js';
export type {MatrixTile} from './matrix_plan.js';
export type {Pass, TileShape} from './plan.js';
export type {Tiles} from './tuning.js';
export {composedConfigs} from './composed/kernel.js';
export {
  type FlashMaskAttentionAttrs,
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type Layout,
  type Precision,
} from './kernel_names.js';
export {type CreateWebGPUBackendOptions, type WebGPUKernelBackend, createWebGPUBackend} from './webgpu_backend.js';
export type {Nested} from './mask/nested.js';
export type {Numbers, PackedOptions, PerBatch} from './mask/arguments.js';
export type {QueryOptions, Spans, WindowOptions} from './mask/builders.js';
export type {DenseOptions, RowIndicesOptions, SegmentOptions} from './mask/conversions.js';
export type {Group} from './mask/packed_builders.js';
export type {SVGOptions} from './mask/picture_svg.js';
export type {TextOptions} from './mask/picture_text.js';
export type {EvictionOptions} from './mask/selection_builders.js';
export type {HostBounds, Vectors} from './mask/tile_map.js';
export type {Sparsity} from './mask/visible.js';
