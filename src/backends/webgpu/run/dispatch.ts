/**
 * @file Records passes into tfjs's own commands, so that a short call costs no submission, and divides long work into
 * submissions so short that no browser or driver kills them. It does not call `runWebGPUProgram`, which allows one
 * output and only the stock number of bindings.
 */
import {env} from '@tensorflow/tfjs-core';
import {remember} from '../../../call/remember.js';
import {submitRecorded, type WebGPUBackend} from './tfjs_backend.js';
import {UNIFORMS, type UniformValues} from '../wgsl/header.js';
import type {ShaderVariant} from '../wgsl/shader.js';
import {compileAhead, isCompileOnly, pipelineOf} from './pipelines.js';
import {limitsOf} from './size_limits.js';

/** A buffer, or a range of one. */
export type BufferRange = GPUBuffer | GPUBufferBinding;

/** One pass: a shader, its buffers and how much work it is. */
export interface PassRun {
  shader: ShaderVariant;
  /** One per binding, in order. */
  buffers: readonly BufferRange[];
  uniforms: UniformValues;
  /** Number of work items: workgroups or threads, whichever the shader counts. */
  items: number;
  /** Upper bound on the floating-point operations of one workgroup. */
  flopsPerWorkgroup: number;
}

/** Seconds that one submission may take: browsers and drivers reset a device after about two. */
const SUBMISSION_SECONDS = 0.1;
/** Floating-point operations of a submission before anything has been timed: half a second on an integrated GPU. */
const FIRST_BUDGET = 1e11;
/** A call of so many operations is submitted at once: a large GPU takes about as long for it as the submission. */
const LONG = 1e10;
/** Smallest number of workgroups of a dispatch: fewer would leave a large GPU idle. */
const LEAST_WORKGROUPS = 128;

interface State {
  /** Floating-point operations that a submission may hold; grows with the speed seen. */
  budget: number;
  /** The commands that are being recorded, and the operations of the passes in them. */
  encoder?: GPUCommandEncoder | null;
  flops: number;
  /** Uniform buffers by their values. */
  uniforms: Map<string, GPUBuffer>;
  /** Uniform buffers whose values are forgotten. */
  free: GPUBuffer[];
}

const states = new WeakMap<WebGPUBackend, State>();

const stateOf = (backend: WebGPUBackend): State =>
  remember(states, backend, () => ({budget: FIRST_BUDGET, flops: 0, uniforms: new Map<string, GPUBuffer>(), free: []}));

/**
 * Records the passes in order, and submits them if they are long. Buffers of the passes may be released, but not
 * destroyed, as soon as this returns: later commands run after these.
 */
export function submitPasses(backend: WebGPUBackend, passes: readonly PassRun[]): void {
  if (isCompileOnly()) {
    compileAhead(
      backend,
      passes.map(({shader}) => shader),
    );
    return;
  }
  const state = stateOf(backend);
  for (const pass of passes) recordPass(backend, state, pass);
  if (state.flops >= LONG || isBatchFull(backend)) submit(backend, state);
}

/** Records the workgroups of a pass in ranges, each of them within the budget. */
function recordPass(backend: WebGPUBackend, state: State, pass: PassRun): void {
  const {shader, buffers, items, flopsPerWorkgroup} = pass;
  const total = Math.ceil(items / shader.itemsPerWorkgroup);
  const most = Math.max(LEAST_WORKGROUPS, Math.floor(state.budget / flopsPerWorkgroup));
  for (let first = 0; first < total; first += most) {
    const count = Math.min(most, total - first);
    const gridX = Math.min(count, limitsOf(backend.device).maxComputeWorkgroupsPerDimension);
    const workEnd = Math.min(items, (first + count) * shader.itemsPerWorkgroup);
    const uniforms = uniformBuffer(backend, state, {...pass.uniforms, firstWorkgroup: first, gridX, workEnd});
    recordDispatch(backend, shader, [uniforms, ...buffers], count, gridX);
    // tfjs may have submitted since the last pass.
    if (state.encoder !== backend.commandEncoder) state.flops = 0;
    state.encoder = backend.commandEncoder;
    state.flops += count * flopsPerWorkgroup;
    if (state.flops >= state.budget) submit(backend, state);
  }
}

/** Whether tfjs would submit what is recorded. */
export const isBatchFull = ({dispatchCountInPass}: WebGPUBackend): boolean =>
  dispatchCountInPass >= env().getNumber('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE');

/**
 * Records a dispatch into tfjs's commands, and submits it within `tf.time()` and `tf.profile()`.
 *
 * @param ranges The uniforms, then what the shader binds, in order.
 * @param count Workgroups, in rows of `gridX`.
 */
export function recordDispatch(
  backend: WebGPUBackend,
  shader: ShaderVariant,
  ranges: readonly BufferRange[],
  count: number,
  gridX: number,
): void {
  const {device, activeTimers} = backend;
  const pipeline = pipelineOf(device, shader);
  const bindGroup = device.createBindGroup({
    label: shader.key,
    layout: pipeline.getBindGroupLayout(0),
    entries: ranges.map((range, binding) => ({
      binding,
      resource: 'buffer' in range ? range : {buffer: range},
    })),
  });
  const recorder = activeTimers ? timedPass(backend) : computePass(backend);
  recorder.setPipeline(pipeline);
  recorder.setBindGroup(0, bindGroup);
  recorder.dispatchWorkgroups(gridX, Math.ceil(count / gridX));
  backend.dispatchCountInPass++;
  if (!activeTimers) return;
  backend.endComputePassEncoder();
  // This also submits, if the device supports timestamps.
  activeTimers.push({name: shader.name, query: backend.getQueryTime()});
  submitRecorded(backend);
}

/** The pass that is open in tfjs's commands, or a new one. */
function computePass(backend: WebGPUBackend, descriptor?: GPUComputePassDescriptor): GPUComputePassEncoder {
  backend.ensureCommandEncoderReady();
  return (backend.computePassEncoder ??= backend.commandEncoder!.beginComputePass(descriptor));
}

/** A pass within `tf.time()` or `tf.profile()`, with timestamps if the device has them: as tfjs times its programs. */
function timedPass(backend: WebGPUBackend): GPUComputePassEncoder {
  backend.endComputePassEncoder();
  if (!backend.supportTimestampQuery) return computePass(backend);
  const {device, querySetCount: count} = backend;
  const querySet = (backend.querySet ??= device.createQuerySet({type: 'timestamp', count}));
  return computePass(backend, {timestampWrites: {querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1}});
}

/** Most uniform buffers that stay. */
const MOST_UNIFORMS = 1024;

/** The buffer with these values. It stays for later calls, because each write costs the host time. */
function uniformBuffer(backend: WebGPUBackend, state: State, values: UniformValues): GPUBuffer {
  const {uniforms} = state;
  const data = packUniforms(values);
  return remember(uniforms, data.join(), () => {
    if (uniforms.size === MOST_UNIFORMS) {
      // Otherwise writes would come before the commands that are recorded.
      submitRecorded(backend);
      state.free = [...uniforms.values()];
      uniforms.clear();
    }
    const usage = GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
    const buffer = state.free.pop() ?? backend.device.createBuffer({size: data.byteLength, usage});
    backend.queue.writeBuffer(buffer, 0, data);
    return buffer;
  });
}

/**
 * Submits what is recorded. By the wall time of a large submission it raises the budget to the operations that the
 * device can do in SUBMISSION_SECONDS.
 */
function submit(backend: WebGPUBackend, state: State): void {
  submitRecorded(backend);
  const {flops} = state;
  state.flops = 0;
  if (flops < FIRST_BUDGET / 2) return;
  const start = performance.now();
  void backend.queue.onSubmittedWorkDone().then(
    () => {
      const seconds = (performance.now() - start) / 1000;
      state.budget = Math.max(state.budget, Math.min(4 * state.budget, (flops / seconds) * SUBMISSION_SECONDS));
    },
    () => {}, // The device was lost; device_errors.ts reports it.
  );
}

/** Uniform values in the order and with the types of the shader's struct. */
function packUniforms(values: UniformValues): Uint32Array<ArrayBuffer> {
  const integers = new Uint32Array(UNIFORMS.length);
  const floats = new Float32Array(integers.buffer);
  UNIFORMS.forEach(([name, type], i) => ((type === 'f32' ? floats : integers)[i] = values[name]!));
  return integers;
}
