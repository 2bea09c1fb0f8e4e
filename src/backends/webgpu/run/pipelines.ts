/** @file From shaders to pipelines: the cache of a device, and tfjs's flags for printing shaders and for compiling ahead of use. */
import {env} from '@tensorflow/tfjs-core';
import type {ShaderVariant} from '../wgsl/shader.js';
import type {WebGPUBackend} from './tfjs_backend.js';

/** What a pipeline is made of. */
export type Code = Pick<ShaderVariant, 'key' | 'code' | 'bindings'>;

const caches = new WeakMap<GPUDevice, Map<string, GPUComputePipeline>>();

function cacheOf(device: GPUDevice): Map<string, GPUComputePipeline> {
  let cache = caches.get(device);
  if (!cache) caches.set(device, (cache = new Map<string, GPUComputePipeline>()));
  return cache;
}

/** The pipeline of a shader, compiled now if it has not been. */
export function pipelineOf(device: GPUDevice, shader: Code): GPUComputePipeline {
  const cache = cacheOf(device);
  let pipeline = cache.get(shader.key);
  if (!pipeline) {
    printShader(shader);
    cache.set(shader.key, (pipeline = createPipeline(device, shader)));
  }
  return pipeline;
}

/** Whether tfjs compiles only, and runs nothing: its flag `WEBGPU_ENGINE_COMPILE_ONLY`. */
export const isCompileOnly = (): boolean => env().getBool('WEBGPU_ENGINE_COMPILE_ONLY');

/**
 * Starts to compile shaders while the program goes on. Pipelines on their way lie among those of tfjs, so that its
 * `checkCompileCompletionAsync()` waits for them and throws what is wrong with them.
 */
export function compileAhead({device, pipelineCache}: WebGPUBackend, shaders: readonly Code[]): void {
  const cache = cacheOf(device);
  for (const shader of shaders) {
    if (cache.has(shader.key) || shader.key in pipelineCache) continue;
    printShader(shader);
    pipelineCache[shader.key] = device.createComputePipelineAsync(describe(device, shader)).then(
      (pipeline) => {
        cache.set(shader.key, pipeline);
        return pipeline;
      },
      (error: unknown) => {
        // Another attempt may succeed, or its error be seen.
        delete pipelineCache[shader.key]; // eslint-disable-line @typescript-eslint/no-dynamic-delete -- tfjs's cache is an object
        throw error;
      },
    );
  }
}

/** Compiles a shader. What is wrong with it, the device tells its error scopes. */
export const createPipeline = (device: GPUDevice, shader: Code): GPUComputePipeline =>
  device.createComputePipeline(describe(device, shader));

/** With an explicit layout: an 'auto' one would leave out bindings that a variant does not use. */
function describe(device: GPUDevice, {key, code, bindings}: Code): GPUComputePipelineDescriptor {
  const layout = device.createBindGroupLayout({
    label: key,
    entries: [
      {binding: 0, visibility: GPUShaderStage.COMPUTE, buffer: {type: 'uniform'}},
      ...bindings.map(({access}, i) => ({
        binding: i + 1,
        visibility: GPUShaderStage.COMPUTE,
        buffer: {type: access === 'read' ? ('read-only-storage' as const) : ('storage' as const)},
      })),
    ],
  });
  return {
    label: key,
    layout: device.createPipelineLayout({label: key, bindGroupLayouts: [layout]}),
    compute: {module: device.createShaderModule({label: key, code}), entryPoint: 'main'},
  };
}

/** As tfjs prints its own by the flag `WEBGPU_PRINT_SHADER`: 'all', or parts of keys with commas between. */
function printShader({key, code}: Code): void {
  const wanted = env().getString('WEBGPU_PRINT_SHADER').toLowerCase();
  if (wanted === '') return;
  if (wanted !== 'all' && !wanted.split(',').some((part) => key.toLowerCase().includes(part))) return;
  console.group(key);
  console.debug(code);
  console.groupEnd();
}
