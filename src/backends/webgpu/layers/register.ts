/** @file Registers the layers' kernels for the backend 'webgpu'. */
import {getKernel, registerKernel} from '@tensorflow/tfjs-core';
import {gatedUnitKernels} from './gated_unit.js';
import {rmsNormKernels} from './rms_norm.js';
import {rotateKernels} from './rotate.js';

/** Layers run as these kernels from now on. Kernels that are registered stay. */
export function registerWebGPULayers(): void {
  [...rmsNormKernels, ...rotateKernels, ...gatedUnitKernels]
    .filter(({kernelName, backendName}) => !getKernel(kernelName, backendName))
    .forEach(registerKernel);
}
