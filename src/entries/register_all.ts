/**
 * @file Registrations of the main entry: kernels of two backends, kernels for any other backend when the op first runs
 * on it, and gradients.
 */
import {addChainedOp} from '../../ops/chained.js';
import {gradientOfAttention} from '../../gradients/flash_mask_attention_grad.js';
import {gradientOfGradient} from '../../gradients/flash_mask_attention_grad_grad.js';
import {provideComposedKernels} from '../backends/composed/kernel.js';
import * as cpu from '../backends/cpu/kernel.js';
import * as webgpu from '../backends/webgpu/kernel.js';
import {setKernelProvider} from '../call/ensure_kernels.js';
import {registerGradients, registerKernels} from './register.js';

/** Registers everything that is not registered yet. Importing the library calls it. */
export function registerAll(): void {
  registerKernels([
    webgpu.flashMaskAttentionConfig,
    webgpu.flashMaskAttentionGradConfig,
    cpu.flashMaskAttentionConfig,
    cpu.flashMaskAttentionGradConfig,
  ]);
  registerGradients([gradientOfAttention, gradientOfGradient]);
  setKernelProvider(provideComposedKernels);
  addChainedOp();
}
