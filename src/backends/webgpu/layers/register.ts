/** @file Registers the layers' kernels for the backend 'webgpu'. */
import {registerLayerKernels} from '../../../layers/kernel.js';
import {gatedUnitKernels} from './gated_unit.js';
import {rmsNormKernels} from './rms_norm.js';
import {rotateKernels} from './rotate.js';

/** Layers run as these kernels from now on. */
export function registerWebGPULayers(): void {
  registerLayerKernels([...rmsNormKernels, ...rotateKernels, ...gatedUnitKernels]);
}
