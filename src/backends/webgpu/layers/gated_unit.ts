/** @file The gated unit's kernels on WebGPU. */
import {type TensorInfo, util} from '@tensorflow/tfjs-core';
import {layerKernel} from '../../../layers/kernel.js';
import type {WebGPUBackend} from '../run/tfjs_backend.js';
import {elementType} from '../wgsl/header.js';
import {gatedUnit, gatedUnitGrad} from '../wgsl/layers/gated_unit.js';
import {type Shader, specialize} from '../wgsl/shader.js';
import {elementsOf} from '../wgsl/vector/combine.js';
import {runShader} from './run_shader.js';

/** Runs a shader whose tensors all have the same shape. */
function run(
  backend: WebGPUBackend,
  shader: Shader<{element: ReturnType<typeof elementType>}>,
  inputs: readonly TensorInfo[],
  results: number,
): TensorInfo[] {
  const [{shape}] = inputs;
  const size = util.sizeFromShape(shape);
  const variant = specialize(shader, {element: elementType(size)});
  return runShader(
    backend,
    variant,
    inputs,
    Array.from({length: results}, () => shape),
    elementsOf(size),
  );
}

export const gatedUnitKernels = [
  layerKernel<WebGPUBackend>('FlashMaskGatedUnit', 'webgpu', ({gate, up}, _, backend) =>
    run(backend, gatedUnit, [gate, up], 1),
  ),
  layerKernel<WebGPUBackend>('FlashMaskGatedUnitGrad', 'webgpu', ({gate, up, dy}, _, backend) =>
    run(backend, gatedUnitGrad, [gate, up, dy], 2),
  ),
];
