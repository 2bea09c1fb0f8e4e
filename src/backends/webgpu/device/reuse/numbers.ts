/** @file Keeps single numbers on the device. */
import type {WebGPUBackend} from '../../run/tfjs_backend.js';
import {rememberFew} from './remember_few.js';

/** Most numbers that stay: more than a model has, but not all rates of a long training. */
const MOST = 512;

/** The members of a tensor's entry that are used here. */
interface Entry {
  dtype: string;
  values: ArrayLike<number> | null;
  resource: GPUBuffer | null;
  external?: boolean;
}

/**
 * One buffer for all tensors that hold the same single number: no operation writes to its inputs. tfjs leaves buffers
 * that are `external` alone when it disposes a tensor.
 */
export function keepNumbers(backend: WebGPUBackend): void {
  const {device} = backend;
  // Tensors may use a buffer that is forgotten. It is freed with the last of them.
  const buffers = new Map<number, GPUBuffer>();
  const upload = backend.uploadToGPU.bind(backend);
  const bits = new ArrayBuffer(4);
  const [asFloat, asInteger, asBits] = [new Float32Array(bits), new Int32Array(bits), new Uint32Array(bits)];
  backend.uploadToGPU = (dataId) => {
    const entry = backend.tensorMap.get(dataId) as unknown as Entry;
    const {values, dtype, resource} = entry;
    if (resource) return;
    if (values?.length !== 1 || (dtype !== 'float32' && dtype !== 'int32')) {
      upload(dataId);
      return;
    }
    (dtype === 'float32' ? asFloat : asInteger)[0] = values[0];
    const buffer = rememberFew(buffers, MOST, asBits[0], () => bufferWith(device, asBits));
    Object.assign(entry, {resource: buffer, values: null, external: true});
  };
}

function bufferWith(device: GPUDevice, values: Uint32Array): GPUBuffer {
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
  const buffer = device.createBuffer({size: values.byteLength, usage, mappedAtCreation: true});
  new Uint32Array(buffer.getMappedRange()).set(values);
  buffer.unmap();
  return buffer;
}
