/** @file Entry `tfjs-flashmask/node-webgpu`: tfjs's WebGPU backend in Node. */
export * from '../node_webgpu/use_webgpu.js';
