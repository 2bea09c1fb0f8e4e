/**
 * @file Makes pipelines from shaders: a cache per device, and tfjs's flags for printing shaders and for compiling ahead
 * of use.
 */
import {env} from '@tensorflow/tfjs-core';
import {remember} from '../../../call/remember.js';
import type {ShaderVariant} from '../wgsl/shader.js';
import type {WebGPUBackend} from './tfjs_backend.js';

/** The fields of a shader that a pipeline is made from. */
export type Code = Pick<ShaderVariant, 'key' | 'code' | 'bindings'>;

const caches = new WeakMap<GPUDevice, Map<string, GPUComputePipeline>>();

const cacheOf = (device: GPUDevice): Map<string, GPUComputePipeline> =>
  remember(caches, device, () => new Map<string, GPUComputePipeline>());

/** The pipeline of a shader, compiled now if the cache does not have it. */
export const pipelineOf = (device: GPUDevice, shader: Code): GPUComputePipeline =>
  remember(cacheOf(device), shader.key, () => {
    printShader(shader);
    return createPipeline(device, shader);
  });

/** Whether the cache has the pipeline of a shader. */
export const isCompiled = (device: GPUDevice, {key}: Code): boolean => cacheOf(device).has(key);

/** Whether tfjs only compiles and runs nothing: its flag `WEBGPU_ENGINE_COMPILE_ONLY`. */
export const isCompileOnly = (): boolean => env().getBool('WEBGPU_ENGINE_COMPILE_ONLY');

/**
 * Starts to compile shaders asynchronously. The promises go into tfjs's own pipeline cache, so that its
 * `checkCompileCompletionAsync()` waits for them and throws their errors.
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
        // Without the entry another attempt may succeed, or report its error.
        delete pipelineCache[shader.key]; // eslint-disable-line @typescript-eslint/no-dynamic-delete -- tfjs's cache is an object
        throw error;
      },
    );
  }
}

/** Compiles a shader. The device reports errors to its error scopes. */
export const createPipeline = (device: GPUDevice, shader: Code): GPUComputePipeline =>
  device.createComputePipeline(describe(device, shader));

/**
 * Describes a pipeline with an explicit layout: an 'auto' layout would leave out bindings that a variant does not use.
 */
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

/**
 * Prints a shader if tfjs's flag `WEBGPU_PRINT_SHADER`, which also prints tfjs's own shaders, asks for it: 'all', or
 * substrings of keys separated by commas.
 */
function printShader({key, code}: Code): void {
  const wanted = env().getString('WEBGPU_PRINT_SHADER').toLowerCase();
  if (wanted === '') return;
  if (wanted !== 'all' && !wanted.split(',').some((part) => key.toLowerCase().includes(part))) return;
  console.group(key);
  console.debug(code);
  console.groupEnd();
}
