/**
 * @file Spares the host work in tfjs's own operations, on backends that this library makes. A model passes the same
 * numbers and shapes in every step: those stay on the device. And tfjs submits after 15 operations, which takes as long as
 * three of them: here after more.
 */
import {env} from '@tensorflow/tfjs-core';
import type {WebGPUBackend} from '../run/tfjs_backend.js';

const BATCH_FLAG = 'WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE';
const TFJS_BATCH = 15;
/**
 * Measured on an NVIDIA H200 (docs/performance.md): with fewer the host submits too often, with many more the GPU waits
 * for the host to record.
 */
const BATCH = 128;

/** Most numbers that stay on a device: more than a model has, but not all rates of a long training. */
const MOST_NUMBERS = 512;
/** Most uniform buffers that stay, of about 100 bytes each. */
const MOST_UNIFORMS = 4096;

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
  uploadToGPU(dataId: object): void;
  makeUniforms(uniforms: Uniform[]): UniformBinding;
}

/** Applies to a backend that has just been made. */
export function reuseUploads(made: WebGPUBackend): void {
  const backend = made as unknown as Internals;
  keepNumbers(backend);
  keepUniforms(backend);
  // A value that differs from tfjs's default is the user's.
  if (env().getNumber(BATCH_FLAG) === TFJS_BATCH) env().set(BATCH_FLAG, BATCH);
}

/** Forgets the entry that was used least recently, if there are more than allowed. */
function limit<T>(entries: Map<string, T>, most: number): T | undefined {
  if (entries.size <= most) return undefined;
  const [oldest, value] = entries.entries().next().value!;
  entries.delete(oldest);
  return value;
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
    // tfjs would give it back after the submission.
    backend.uniformPendingDisposal.pop();
    bindings.set(key, binding);
    const old = limit(bindings, MOST_UNIFORMS);
    if (old) backend.uniformPendingDisposal.push(old.buffer);
    return binding;
  };
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
