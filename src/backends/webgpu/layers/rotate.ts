/** @file The kernel of the rotation on WebGPU. */
import {layerKernel} from '../../../layers/kernel.js';
import type {WebGPUBackend} from '../run/tfjs_backend.js';
import {rotate, rotateThreads} from '../wgsl/layers/rotate.js';
import {specialize} from '../wgsl/shader.js';
import {runShader} from './run_shader.js';

export const rotateKernels = [
  layerKernel<WebGPUBackend>('FlashMaskRotate', 'webgpu', ({x, cosines, sines}, {back = false}, backend) => {
    const [tokens, channels] = x.shape;
    const [, , D] = cosines.shape;
    const heads = {H: channels / D, D};
    const shader = specialize(rotate, {...heads, back});
    return runShader(backend, shader, [x, cosines, sines], [x.shape], tokens * rotateThreads(heads));
  }),
];
