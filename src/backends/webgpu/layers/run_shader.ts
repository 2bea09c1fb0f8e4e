/**
 * @file Runs the shader of a layer as one dispatch among those of tfjs, with tfjs's uniform buffers, which a backend of
 * this library reuses.
 */
import {type TensorInfo, util} from '@tensorflow/tfjs-core';
import {FLOAT} from '../../../call/numbers.js';
import {isBatchFull, recordDispatch} from '../run/dispatch.js';
import {guarded} from '../run/device_errors.js';
import {compileAhead, isCompileOnly, isCompiled} from '../run/pipelines.js';
import {limitsOf} from '../run/size_limits.js';
import {type WebGPUBackend, bufferOf, submitRecorded} from '../run/tfjs_backend.js';
import {LAYER_UNIFORMS} from '../wgsl/layers/layer.js';
import type {ShaderVariant} from '../wgsl/shader.js';

/**
 * The results of a shader, of these shapes. Its bindings are the inputs, then the results.
 *
 * @param items Its workgroups or threads, whichever it counts. If there are none, results are zeros.
 */
export function runShader(
  backend: WebGPUBackend,
  shader: ShaderVariant,
  inputs: readonly TensorInfo[],
  shapes: readonly number[][],
  items: number,
): TensorInfo[] {
  if (items === 0) {
    return shapes.map((shape) => backend.makeTensorInfo(shape, 'float32', new Float32Array(util.sizeFromShape(shape))));
  }
  const run = (): TensorInfo[] => {
    const results = shapes.map((shape) => backend.makeTensorInfo(shape, 'float32'));
    const buffers = [...inputs, ...results].map((tensor) => rangeOf(backend, tensor));
    if (isCompileOnly()) compileAhead(backend, [shader]);
    else {
      const count = Math.ceil(items / shader.itemsPerWorkgroup);
      const gridX = Math.min(count, limitsOf(backend.device).maxComputeWorkgroupsPerDimension);
      recordDispatch(backend, shader, [uniformsOf(backend, gridX, items), ...buffers], count, gridX);
      if (isBatchFull(backend)) submitRecorded(backend);
    }
    return results;
  };
  // Error scopes take a quarter of a call's time. A shader that has compiled fails like any operation of tfjs: when
  // memory or a binding's limit does not suffice.
  return isCompiled(backend.device, shader) ? run() : guarded(backend, shader.name, run);
}

/** Not more than the tensor: shaders read the number of rows from the length of a binding. */
function rangeOf(backend: WebGPUBackend, tensor: TensorInfo): GPUBufferBinding {
  return {buffer: bufferOf(backend, tensor), offset: 0, size: FLOAT * util.sizeFromShape(tensor.shape)};
}

function uniformsOf(backend: WebGPUBackend, gridX: number, workEnd: number): GPUBufferBinding {
  const values = {firstWorkgroup: 0, gridX, workEnd};
  return backend.makeUniforms(LAYER_UNIFORMS.map(([name]) => ({type: 'uint32', data: [values[name]]})));
}
