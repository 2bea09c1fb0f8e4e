/**
 * @file Runs the shader of a layer as one dispatch among those of tfjs. An attention call submits its passes itself. A
 * layer takes the GPU so little time that a submission of its own would cost more: its dispatch goes into the compute
 * pass that tfjs records, and takes tfjs's uniform buffers and bind groups, which a backend of this library reuses.
 */
import {type TensorInfo, env, util} from '@tensorflow/tfjs-core';
import {FLOAT} from '../../../call/numbers.js';
import {type Recorded, recordDispatch, submitTimed} from '../run/dispatch.js';
import {guarded} from '../run/device_errors.js';
import {compileAhead, isCompileOnly, isCompiled} from '../run/pipelines.js';
import {type WebGPUBackend, bufferOf} from '../run/tfjs_backend.js';
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
    const tensors = [...inputs, ...results];
    const buffers = tensors.map((tensor) => rangeOf(backend, tensor));
    if (isCompileOnly()) compileAhead(backend, [shader]);
    else dispatch(backend, tensors, {pass: {shader, buffers}, ...gridOf(backend, shader, items)});
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

function gridOf(backend: WebGPUBackend, shader: ShaderVariant, items: number): Omit<Recorded, 'pass'> {
  const count = Math.ceil(items / shader.itemsPerWorkgroup);
  const gridX = Math.min(count, backend.device.limits.maxComputeWorkgroupsPerDimension);
  const values = {firstWorkgroup: 0, gridX, workEnd: items};
  const uniforms = LAYER_UNIFORMS.map(([name]) => ({type: 'uint32' as const, data: [values[name]]}));
  return {count, gridX, uniforms: backend.makeUniforms(uniforms)};
}

function dispatch(backend: WebGPUBackend, tensors: readonly TensorInfo[], recorded: Recorded): void {
  if (backend.activeTimers != null) {
    backend.endComputePassEncoder();
    submitTimed(backend, [recorded]);
    return;
  }
  backend.ensureCommandEncoderReady();
  backend.computePassEncoder ??= backend.commandEncoder!.beginComputePass();
  recordDispatch(backend.device, backend.computePassEncoder, recorded);
  for (const {dataId} of tensors) backend.commandQueueOwnedIds.add(dataId);
  backend.dispatchCountInPass++;
  if (backend.dispatchCountInPass < env().getNumber('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE')) return;
  backend.endComputePassEncoder();
  backend.submitQueue();
}
