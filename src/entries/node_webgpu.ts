/**
 * @file Entry `tfjs-flashmask/node-webgpu`: tfjs's WebGPU backend in Node.
 *
 * @module tfjs-flashmask/node-webgpu
 */
export * from '../node_webgpu/use_webgpu.js';
