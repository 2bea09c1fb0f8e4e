/**
 * @file Entry `tfjs-flashmask/webgpu`: the op on the backend 'webgpu' only, for small pages, and the functions that set
 * up and tune that backend. Importing it registers the WebGPU kernels and the first gradient. Import 'tfjs-flashmask'
 * too for other backends and for gradients of gradients.
 *
 * @module tfjs-flashmask/webgpu
 */
import {addChainedOp} from '../../ops/chained.js';
import {gradientOfAttention} from '../../gradients/flash_mask_attention_grad.js';
import {flashMaskAttentionConfig, flashMaskAttentionGradConfig} from '../backends/webgpu/kernel.js';
import {fail} from '../call/errors.js';
import {FlashMaskAttentionGrad} from '../call/kernel_names.js';
import {type GradientStandIn, registerGradients, registerKernels} from './register.js';

const secondGradient: GradientStandIn = {
  kernelName: FlashMaskAttentionGrad,
  isStandIn: true,
  gradFunc: () =>
    fail(
      'flashMaskAttention',
      "a gradient of a gradient needs 'tfjs-flashmask'",
      "'tfjs-flashmask/webgpu' alone",
      "Import 'tfjs-flashmask' too.",
    ),
};

registerKernels([flashMaskAttentionConfig, flashMaskAttentionGradConfig]);
registerGradients([gradientOfAttention, secondGradient]);
addChainedOp();

export * from './api.js';
export {autotune} from './autotune.js';
export {type PrepareOptions, prepareAttention} from './prepare_attention.js';
export type {AutotuneOptions, AutotuneProgress, TriedTiles, TunedPass} from '../backends/webgpu/autotune/autotune.js';
export type {CallKind} from '../backends/webgpu/autotune/call_kind.js';
export {
  type CreateWebGPUBackendOptions,
  type WebGPUKernelBackend,
  createWebGPUBackend,
} from '../backends/webgpu/device/create_backend.js';
export {clearAutotuneCache} from '../backends/webgpu/device/tuned_tiles_store.js';
export type {MatrixTile} from '../backends/webgpu/plan/matrix_plan.js';
export type {Pass, TileShape} from '../backends/webgpu/plan/vector_plan.js';
export type {Tiles} from '../backends/webgpu/plan/tuned_tiles.js';
