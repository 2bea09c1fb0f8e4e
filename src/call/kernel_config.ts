/** @file A kernel as tfjs registers it, with the types of its inputs, attributes and backend. */
import type {KernelConfig, TensorInfo} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs} from './kernel_names.js';

/** The arguments of a kernel call. */
export interface KernelCall<Inputs, Backend> {
  inputs: Inputs;
  attrs: FlashMaskAttentionAttrs;
  backend: Backend;
}

/**
 * Gives a kernel function its types. tfjs types inputs and attributes only by name, and the backend not at all; the op
 * has already checked all three.
 */
export function kernelConfig<Inputs, Backend>(
  kernelName: string,
  backendName: string,
  run: (call: KernelCall<Inputs, Backend>) => TensorInfo[],
): KernelConfig {
  return {kernelName, backendName, kernelFunc: (call) => run(call as unknown as KernelCall<Inputs, Backend>)};
}
