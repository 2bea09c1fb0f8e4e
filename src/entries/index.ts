/**
 * @file The package's main entry: exports, and the one side effect of importing it, which registers kernels and gradients.
 *
 * @module tfjs-flashmask
 */
// Once for its function and once more for its types: only this form stays in the declarations.
import '../../ops/chained.js';
import {addChainedOp} from '../../ops/chained.js';
import {register} from './register.js';

register();
addChainedOp();

export * from '../../ops/index.js';
export {hashOrder, masks} from '../mask/builders/builders.js';
export {FlashMask, type FlashMaskFields, type TileOptions} from '../mask/flash_mask.js';
export {clearBoundsCache} from '../mask/bounds/bounds_cache.js';
export {type AutotuneOptions, type TriedTiles, type TunedPass, autotune} from '../backends/webgpu/autotune/autotune.js';
export {clearAutotuneCache} from '../backends/webgpu/device/tuned_tiles_store.js';
export type {MatrixTile} from '../backends/webgpu/plan/matrix_plan.js';
export type {Pass, TileShape} from '../backends/webgpu/plan/vector_plan.js';
export type {Tiles} from '../backends/webgpu/plan/tuned_tiles.js';
export {composedConfigs} from '../backends/composed/kernel.js';
export {
  type FlashMaskAttentionAttrs,
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type Layout,
  type Precision,
} from '../call/kernel_names.js';
export {
  type CreateWebGPUBackendOptions,
  type WebGPUKernelBackend,
  createWebGPUBackend,
} from '../backends/webgpu/device/create_backend.js';
export type {Nested} from '../mask/builders/nested.js';
export type {Numbers, PackedOptions, PerBatch} from '../mask/builders/arguments.js';
export type {QueryOptions, Spans, WindowOptions} from '../mask/builders/builders.js';
export type {DenseOptions, RowIndicesOptions, SegmentOptions} from '../mask/builders/conversions.js';
export type {Group} from '../mask/builders/packed.js';
export type {SVGOptions} from '../mask/pictures/svg.js';
export type {TextOptions} from '../mask/pictures/text.js';
export type {EvictionOptions} from '../mask/builders/selected.js';
export type {HostBounds, Vectors} from '../mask/bounds/intervals.js';
export type {Sparsity} from '../mask/bounds/visible.js';
