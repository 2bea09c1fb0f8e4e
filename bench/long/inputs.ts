/** @file Tensors too large for JavaScript: the device repeats a block of numbers, so the host can tell any element. */
import * as tf from '@tensorflow/tfjs-core';
import {submitRecorded, type WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {seededRandom} from '../../src/mask/builders/random.js';

const FLOAT = 4;

/** Numbers per block. The number is prime, so that all rows of a tensor differ. */
const BLOCK = 1048573;

/** The block of each seed, uniform in [-2, 2). The tensors of the seed repeat it. */
const blocks = new Map<number, Float32Array<ArrayBuffer>>();

function blockOf(seed: number): Float32Array<ArrayBuffer> {
  let block = blocks.get(seed);
  if (!block) {
    const random = seededRandom(seed);
    blocks.set(seed, (block = Float32Array.from({length: BLOCK}, () => 4 * random() - 2)));
  }
  return block;
}

/** Elements of this seed's tensor, in order from `first`; at most as many as a block has. */
export function drawn(seed: number, first: number, count: number): Float32Array {
  const block = blockOf(seed);
  const at = first % BLOCK;
  if (at + count <= BLOCK) return block.subarray(at, at + count);
  return Float32Array.of(...block.subarray(at), ...block.subarray(0, at + count - BLOCK));
}

/** A tensor in its own buffer, outside tfjs's pool. */
export interface Drawn {
  tensor: tf.Tensor4D;
  bytes: number;
  /** Disposes the tensor and destroys its buffer. */
  release(): void;
}

/** A tensor of drawn elements. */
export function drawnTensor(backend: WebGPUBackend, shape: [number, number, number, number], seed: number): Drawn {
  const {device} = backend;
  const bytes = FLOAT * tf.util.sizeFromShape(shape);
  const {STORAGE, COPY_SRC, COPY_DST} = GPUBufferUsage;
  const block = device.createBuffer({size: FLOAT * BLOCK, usage: COPY_SRC | COPY_DST});
  const buffer = device.createBuffer({size: bytes, usage: STORAGE | COPY_SRC | COPY_DST});
  device.queue.writeBuffer(block, 0, blockOf(seed));
  const encoder = device.createCommandEncoder();
  for (let at = 0; at < bytes; at += FLOAT * BLOCK) {
    encoder.copyBufferToBuffer(block, 0, buffer, at, Math.min(FLOAT * BLOCK, bytes - at));
  }
  device.queue.submit([encoder.finish()]);
  const tensor = tf.tensor({buffer, zeroCopy: true}, shape) as tf.Tensor4D;
  const release = (): void => {
    tensor.dispose();
    // Commands that read it may only be recorded.
    submitRecorded(backend);
    buffer.destroy();
    block.destroy();
  };
  return {tensor, bytes, release};
}

/** Reads some elements of a tensor on the device, in order from `first`, without the others. */
export async function readElements(
  backend: WebGPUBackend,
  buffer: GPUBuffer,
  first: number,
  count: number,
): Promise<Float32Array> {
  submitRecorded(backend);
  const {device} = backend;
  const size = FLOAT * count;
  const staging = device.createBuffer({size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST});
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, FLOAT * first, staging, 0, size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const values = new Float32Array(staging.getMappedRange().slice(0));
  staging.destroy();
  return values;
}
