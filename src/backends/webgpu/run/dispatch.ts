/**
 * @file Submits passes to the queue: makes bind groups, and divides the work into submissions so short that no browser
 * or driver kills them. It records its own command buffers instead of calling `runWebGPUProgram`, which allows one
 * output and only the stock number of bindings, and reports no errors.
 */
import type {WebGPUBackend} from './tfjs_backend.js';
import {UNIFORMS, type UniformValues} from '../wgsl/header.js';
import type {ShaderVariant} from '../wgsl/shader.js';
import {compileAhead, isCompileOnly, pipelineOf} from './pipelines.js';

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
/** Smallest number of workgroups of a dispatch: fewer would leave a large GPU idle. */
const LEAST_WORKGROUPS = 128;

interface DeviceState {
  /** Floating-point operations that a submission may hold; grows with the speed seen. */
  budget: number;
}

const states = new WeakMap<GPUDevice, DeviceState>();

function stateOf(device: GPUDevice): DeviceState {
  let state = states.get(device);
  if (!state) states.set(device, (state = {budget: FIRST_BUDGET}));
  return state;
}

/** A range of the workgroups of a pass that is dispatched at once: `count` workgroups from `first` on. */
interface Dispatch {
  pass: PassRun;
  first: number;
  count: number;
  gridX: number;
}

/** Records the passes in order and submits them. Buffers of the passes may be released as soon as this returns. */
export function submitPasses(backend: WebGPUBackend, passes: readonly PassRun[]): void {
  if (isCompileOnly()) {
    const shaders = passes.map(({shader}) => shader);
    compileAhead(backend, shaders);
    return;
  }
  const {device, bufferManager} = backend;
  const dispatches = passes.flatMap((pass) => dispatchesOf(device, pass, stateOf(device).budget));
  if (dispatches.length === 0) return;
  const buffer = writeUniforms(backend, dispatches);
  const recorded = dispatches.map((dispatch, i) => ({
    ...dispatch,
    uniforms: {buffer, offset: i * UNIFORM_STRIDE, size: UNIFORM_BYTES},
  }));
  if (backend.activeTimers != null) submitTimed(backend, recorded);
  else submitWithinBudget(backend, recorded);
  // The queue runs in order: a later write to a reused buffer happens after these submissions.
  bufferManager.releaseBuffer(buffer);
}

/** A dispatch as it is recorded. */
export interface Recorded {
  pass: Pick<PassRun, 'shader' | 'buffers'>;
  /** Workgroups, and how many of them are a row of the grid. */
  count: number;
  gridX: number;
  /** The buffer range with its uniforms. */
  uniforms: GPUBufferBinding;
}

function submitWithinBudget({device, queue}: WebGPUBackend, dispatches: readonly (Dispatch & Recorded)[]): void {
  const state = stateOf(device);
  let flops = 0;
  let encoder: GPUCommandEncoder | null = null;
  for (const dispatch of dispatches) {
    encoder ??= device.createCommandEncoder({label: 'flashMaskAttention'});
    recordPass(device, encoder, dispatch);
    flops += dispatch.count * dispatch.pass.flopsPerWorkgroup;
    if (flops < state.budget && dispatch !== dispatches.at(-1)) continue;
    queue.submit([encoder.finish()]);
    measure(queue, state, flops);
    flops = 0;
    encoder = null;
  }
}

/**
 * Submits within `tf.time()` and `tf.profile()`: one submission per dispatch, with tfjs's encoder and timestamp
 * queries, as tfjs times its own programs.
 */
export function submitTimed(backend: WebGPUBackend, dispatches: readonly Recorded[]): void {
  const {device} = backend;
  for (const dispatch of dispatches) {
    backend.ensureCommandEncoderReady();
    let timestampWrites: GPUComputePassTimestampWrites | undefined;
    if (backend.supportTimestampQuery) {
      const querySet = (backend.querySet ??= device.createQuerySet({type: 'timestamp', count: backend.querySetCount}));
      timestampWrites = {querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1};
    }
    recordPass(device, backend.commandEncoder!, dispatch, timestampWrites);
    // getQueryTime() also submits, if the device supports timestamps.
    const query = backend.getQueryTime();
    if (backend.commandEncoder !== null) backend.submitQueue();
    backend.activeTimers!.push({name: dispatch.pass.shader.name, query});
  }
}

/** The dispatches of a pass, each of them within the budget. */
function dispatchesOf(device: GPUDevice, pass: PassRun, budget: number): Dispatch[] {
  const total = Math.ceil(pass.items / pass.shader.itemsPerWorkgroup);
  const most = Math.max(LEAST_WORKGROUPS, Math.floor(budget / pass.flopsPerWorkgroup));
  return Array.from({length: Math.ceil(total / most)}, (_, i) => {
    const first = i * most;
    const count = Math.min(most, total - first);
    return {pass, first, count, gridX: Math.min(count, device.limits.maxComputeWorkgroupsPerDimension)};
  });
}

const UNIFORM_BYTES = 4 * UNIFORMS.length;
/** Bytes from one dispatch's uniforms to the next's: a multiple of the alignment that every device allows. */
const UNIFORM_STRIDE = 256 * Math.ceil(UNIFORM_BYTES / 256);

/**
 * Writes the uniforms of all dispatches to one buffer: each write and each buffer costs the host more time than a small
 * pass takes.
 */
function writeUniforms({queue, bufferManager}: WebGPUBackend, dispatches: readonly Dispatch[]): GPUBuffer {
  // Rounded up to few sizes, so that the pool has a buffer of that size.
  const bytes = UNIFORM_STRIDE * 2 ** Math.ceil(Math.log2(dispatches.length));
  const data = new Uint8Array(UNIFORM_STRIDE * dispatches.length);
  dispatches.forEach(({pass, first, count, gridX}, i) => {
    const workEnd = Math.min(pass.items, (first + count) * pass.shader.itemsPerWorkgroup);
    const values = packUniforms({...pass.uniforms, firstWorkgroup: first, gridX, workEnd});
    data.set(new Uint8Array(values), i * UNIFORM_STRIDE);
  });
  const buffer = bufferManager.acquireBuffer(bytes, GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST);
  queue.writeBuffer(buffer, 0, data);
  return buffer;
}

/**
 * Raises the budget to the operations that the device can do in SUBMISSION_SECONDS, by the wall time of a large
 * submission.
 */
function measure(queue: GPUQueue, state: DeviceState, flops: number): void {
  if (flops < FIRST_BUDGET / 2) return;
  const start = performance.now();
  void queue.onSubmittedWorkDone().then(
    () => {
      const seconds = (performance.now() - start) / 1000;
      state.budget = Math.max(state.budget, Math.min(4 * state.budget, (flops / seconds) * SUBMISSION_SECONDS));
    },
    () => {}, // The device was lost; device_errors.ts reports it.
  );
}

/** Records a dispatch in a compute pass of its own. */
function recordPass(
  device: GPUDevice,
  encoder: GPUCommandEncoder,
  dispatch: Recorded,
  timestampWrites?: GPUComputePassTimestampWrites,
): void {
  const label = dispatch.pass.shader.key;
  const recorder = encoder.beginComputePass({label, timestampWrites});
  recordDispatch(device, recorder, dispatch);
  recorder.end();
}

/** Records a dispatch in an open compute pass. */
export function recordDispatch(
  device: GPUDevice,
  recorder: GPUComputePassEncoder,
  {pass, count, gridX, uniforms}: Recorded,
): void {
  const {key} = pass.shader;
  const pipeline = pipelineOf(device, pass.shader);
  const bindGroup = device.createBindGroup({
    label: key,
    layout: pipeline.getBindGroupLayout(0),
    entries: [uniforms, ...pass.buffers].map((range, binding) => ({
      binding,
      resource: 'buffer' in range ? range : {buffer: range},
    })),
  });
  recorder.setPipeline(pipeline);
  recorder.setBindGroup(0, bindGroup);
  recorder.dispatchWorkgroups(gridX, Math.ceil(count / gridX));
}

/** Uniform values in the order and with the types of the shader's struct. */
function packUniforms(values: UniformValues): ArrayBuffer {
  const data = new ArrayBuffer(4 * UNIFORMS.length);
  const view = new DataView(data);
  UNIFORMS.forEach(([name, type], i) => {
    const value = values[name];
    if (type === 'f32') view.setFloat32(4 * i, value, true);
    else if (type === 'i32') view.setInt32(4 * i, value, true);
    else view.setUint32(4 * i, value, true);
  });
  return data;
}
