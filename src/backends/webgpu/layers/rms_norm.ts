/** @file RMSNorm's kernels on WebGPU. */
import type {TensorInfo} from '@tensorflow/tfjs-core';
import {layerKernel} from '../../../layers/kernel.js';
import type {WebGPUBackend} from '../run/tfjs_backend.js';
import {chunksOf, gammaGrad, workgroupsPerChunk} from '../wgsl/layers/gamma_grad.js';
import {rmsNorm, rmsNormGrad} from '../wgsl/layers/rms_norm.js';
import {specialize} from '../wgsl/shader.js';
import {runShader} from './run_shader.js';

/** dgamma `[channels]`. Many rows take a second pass. */
function gammaGradient(backend: WebGPUBackend, inputs: readonly TensorInfo[]): TensorInfo {
  const [rows, channels] = inputs[0].shape;
  const chunks = chunksOf(rows);
  const shader = specialize(gammaGrad, {channels, again: false});
  const workgroups = workgroupsPerChunk(channels);
  if (chunks <= 1) return runShader(backend, shader, inputs, [[channels]], chunks * workgroups)[0];
  const sums = runShader(backend, shader, inputs, [[chunks, channels]], chunks * workgroups);
  const ofSums = specialize(gammaGrad, {channels, again: true});
  const [result] = runShader(backend, ofSums, sums, [[channels]], workgroups);
  backend.disposeData(sums[0].dataId);
  return result;
}

export const rmsNormKernels = [
  layerKernel<WebGPUBackend>('FlashMaskRmsNorm', 'webgpu', ({x, gamma}, {epsilon = 0}, backend) => {
    const [rows, channels] = x.shape;
    return runShader(backend, specialize(rmsNorm, {channels, epsilon}), [x, gamma], [x.shape, [rows, 1]], rows);
  }),
  layerKernel<WebGPUBackend>('FlashMaskRmsNormGrad', 'webgpu', ({x, gamma, inverse, dy}, _, backend) => {
    const [rows, channels] = x.shape;
    return runShader(backend, specialize(rmsNormGrad, {channels}), [x, gamma, inverse, dy], [x.shape], rows);
  }),
  layerKernel<WebGPUBackend>('FlashMaskRmsNormGammaGrad', 'webgpu', ({x, inverse, dy}, _, backend) => [
    gammaGradient(backend, [x, inverse, dy]),
  ]),
];
