/**
 * @file Spares the host work in tfjs's own operations, on backends that this library makes. A model passes the same
 * numbers and shapes in every step: those stay on the device. Buffers are used again at once, so that few of them
 * serve, and bind groups of the same buffers are not made again. And tfjs submits after 15 operations: here after more.
 */
import {env} from '@tensorflow/tfjs-core';
import type {WebGPUBackend} from '../run/tfjs_backend.js';

const BATCH_FLAG = 'WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE';
const TFJS_BATCH = 15;
/** With fewer the host submits too often, with many more the GPU waits for the host to record. */
const BATCH = 128;

/** Most numbers that stay on a device: more than a model has, but not all rates of a long training. */
const MOST_NUMBERS = 512;
/** Most uniform buffers that stay, of about 100 bytes each. */
const MOST_UNIFORMS = 4096;
/** Most bind groups that stay. */
const MOST_BIND_GROUPS = 8192;

interface Uniform {
  type: string;
  data: number[];
}

/** A uniform buffer as tfjs binds it. */
interface UniformBinding {
  offset: number;
  size: number;
  buffer: GPUBuffer;
}

/** The private members of tfjs's backend that are replaced here, and what they use. */
interface Internals {
  device: GPUDevice;
  tensorMap: {
    get(dataId: object): {
      dtype: string;
      values: ArrayLike<number> | null;
      resource: GPUBuffer | null;
      external?: boolean;
    };
  };
  uniformPendingDisposal: GPUBuffer[];
  commandQueueOwnedIds: unknown;
  bufferManager: {
    usedBuffers: Map<string, GPUBuffer[]>;
    numUsedBuffers: number;
    numBytesUsed: number;
    numBytesAllocated: number;
  };
  uploadToGPU(dataId: object): void;
  makeUniforms(uniforms: Uniform[]): UniformBinding;
}

/** Applies to a backend that has just been made. */
export function reuseUploads(made: WebGPUBackend): void {
  const backend = made as unknown as Internals;
  keepNumbers(backend);
  keepUniforms(backend);
  releaseAtOnce(backend);
  keepBindGroups(backend.device);
  // A value that differs from tfjs's default is the user's.
  if (env().getNumber(BATCH_FLAG) === TFJS_BATCH) env().set(BATCH_FLAG, BATCH);
}

/** Forgets the entry that was used least recently, if there are more than allowed. */
function limit(entries: Map<string, unknown>, most: number): void {
  if (entries.size > most) entries.delete(entries.keys().next().value!);
}

/** The entry of a key, as the one used last. */
function use<T>(entries: Map<string, T>, key: string): T | undefined {
  const value = entries.get(key);
  if (value !== undefined) {
    entries.delete(key);
    entries.set(key, value);
  }
  return value;
}

/**
 * One buffer for all tensors that hold the same single number: no operation writes to its inputs. tfjs leaves buffers
 * that are `external` alone when it disposes a tensor.
 */
function keepNumbers(backend: Internals): void {
  const {device} = backend;
  const buffers = new Map<string, GPUBuffer>();
  const upload = backend.uploadToGPU.bind(backend);
  backend.uploadToGPU = (dataId) => {
    const entry = backend.tensorMap.get(dataId);
    const {values, dtype, resource} = entry;
    if (resource || values?.length !== 1 || (dtype !== 'float32' && dtype !== 'int32')) {
      upload(dataId);
      return;
    }
    const bits = dtype === 'float32' ? Float32Array.of(values[0]) : Int32Array.of(values[0]);
    const key = String(new Uint32Array(bits.buffer)[0]);
    let buffer = use(buffers, key);
    if (buffer === undefined) {
      buffer = bufferWith(device, bits);
      buffers.set(key, buffer);
      // Tensors may still use it. It is freed with the last of them.
      limit(buffers, MOST_NUMBERS);
    }
    Object.assign(entry, {resource: buffer, values: null, external: true});
  };
}

function bufferWith(device: GPUDevice, values: Float32Array | Int32Array): GPUBuffer {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const buffer = device.createBuffer({size: values.byteLength, usage, mappedAtCreation: true});
  new Uint8Array(buffer.getMappedRange()).set(new Uint8Array(values.buffer));
  buffer.unmap();
  return buffer;
}

/** One buffer for all uniforms of the same values. */
function keepUniforms(backend: Internals): void {
  const bindings = new Map<string, UniformBinding>();
  const make = backend.makeUniforms.bind(backend);
  backend.makeUniforms = (uniforms) => {
    const key = keyOf(uniforms);
    const known = use(bindings, key);
    if (known) return known;
    const binding = make(uniforms);
    // tfjs would give it back to the pool after the submission.
    backend.uniformPendingDisposal.pop();
    takeFromPool(backend, binding.buffer);
    bindings.set(key, binding);
    // Commands may still use it. It is freed with the last of them.
    limit(bindings, MOST_UNIFORMS);
    return binding;
  };
}

/** Takes the buffer that the pool gave out last off its books, so that tf.memory() counts what tensors hold. */
function takeFromPool({bufferManager}: Internals, buffer: GPUBuffer): void {
  for (const buffers of bufferManager.usedBuffers.values()) {
    if (buffers.at(-1) !== buffer) continue;
    buffers.pop();
    bufferManager.numUsedBuffers--;
    bufferManager.numBytesUsed -= buffer.size;
    bufferManager.numBytesAllocated -= buffer.size;
    return;
  }
}

function keyOf(uniforms: readonly Uniform[]): string {
  let key = '';
  for (const {type, data} of uniforms) {
    key += type[0];
    // 1 / x tells -0 from 0.
    for (const x of data) key += x === 0 && 1 / x < 0 ? '-0,' : `${x},`;
  }
  return key;
}

/**
 * tfjs holds the buffers of a disposed tensor until the commands that use it are submitted. Commands run in the order
 * in which they are recorded, so a later one may use the buffer before that. Uploads into used buffers are commands
 * too.
 */
function releaseAtOnce(backend: Internals): void {
  const none = {add: () => none, has: () => false, delete: () => false};
  // tfjs replaces it with each submission.
  Object.defineProperty(backend, 'commandQueueOwnedIds', {get: () => none, set: () => {}, configurable: true});
}

const NUMBER = Symbol('tfjs-flashmask.number');
type Numbered = object & {[NUMBER]?: number};
let numbered = 0;

/** A number that stands for an object. */
const numberOf = (object: Numbered): number => (object[NUMBER] ??= ++numbered);

/** One bind group for all dispatches of a pipeline with the same buffers. */
function keepBindGroups(device: GPUDevice): void {
  // A device may get another backend, after tf.engine().reset().
  if (Object.hasOwn(device, 'createComputePipeline')) return;
  const bindGroups = new Map<string, GPUBindGroup>();
  const createBindGroup = device.createBindGroup.bind(device);
  const createPipeline = device.createComputePipeline.bind(device);
  const createPipelineAsync = device.createComputePipelineAsync.bind(device);
  const withLayouts = <T extends GPUComputePipeline>(pipeline: T): T => {
    const layouts: GPUBindGroupLayout[] = [];
    const getBindGroupLayout = pipeline.getBindGroupLayout.bind(pipeline);
    pipeline.getBindGroupLayout = (i) => (layouts[i] ??= getBindGroupLayout(i));
    return pipeline;
  };
  device.createComputePipeline = (descriptor) => withLayouts(createPipeline(descriptor));
  device.createComputePipelineAsync = async (descriptor) => withLayouts(await createPipelineAsync(descriptor));
  device.createBindGroup = (descriptor) => {
    let key = String(numberOf(descriptor.layout));
    for (const {resource} of descriptor.entries) {
      const {buffer, offset = 0, size = 0} = resource as GPUBufferBinding;
      if (!buffer) return createBindGroup(descriptor); // A texture or a sampler.
      key += ` ${numberOf(buffer)} ${offset} ${size}`;
    }
    let bindGroup = use(bindGroups, key);
    if (!bindGroup) {
      bindGroup = createBindGroup(descriptor);
      bindGroups.set(key, bindGroup);
      limit(bindGroups, MOST_BIND_GROUPS);
    }
    return bindGroup;
  };
}
