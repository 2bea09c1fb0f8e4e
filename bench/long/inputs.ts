/**
 * @file Tensors too large for JavaScript to make: a pass writes them where they are, range by range, and the host can tell any element. They
 * are uniform in [-2, 2), in steps of 2^-22.
 */
import * as tf from '@tensorflow/tfjs-core';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {bindingLimit} from '../../src/backends/webgpu/run/size_limits.js';
import {submitPasses} from '../../src/backends/webgpu/run/dispatch.js';
import {declare, type Binding, type UniformValues} from '../../src/backends/webgpu/wgsl/header.js';

const THREADS = 256;
const FLOAT = 4;

const BINDINGS: readonly Binding[] = [{name: 'values', type: 'f32', access: 'read_write'}];

/** The twin of `drawn`: seedLow is the seed, sourceFirst the index of the first element bound. */
const CODE = `${declare(BINDINGS)}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) id: vec3u, @builtin(local_invocation_index) lid: u32) {
  let i = (u.firstWorkgroup + id.y * u.gridX + id.x) * ${THREADS}u + lid;
  if (i >= u.workEnd) { return; }
  let state = ((u.sourceFirst + i) ^ (u.seedLow * 0x9E3779B9u)) * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  values[i] = f32(i32(((word >> 22u) ^ word) >> 8u) - 8388608) / 4194304.0;
}`;

/** Element `index` of the tensor of this seed (PCG's output permutation, O'Neill 2014). All in int32, which V8 keeps in registers. */
export function drawn(seed: number, index: number): number {
  const state = (Math.imul(index ^ Math.imul(seed, 0x9e3779b9), 747796405) + (2891336453 | 0)) | 0;
  const word = Math.imul((state >>> ((state >>> 28) + 4)) ^ state, 277803737);
  return ((((word >>> 22) ^ word) >>> 8) - 8388608) / 4194304;
}

/** A tensor in a buffer that is not one of tfjs's pool. */
export interface Drawn {
  tensor: tf.Tensor4D;
  bytes: number;
  /** Disposes the tensor and destroys its buffer. */
  release(): void;
}

/** A tensor of drawn elements that never were on the host. */
export function drawnTensor(backend: WebGPUBackend, shape: [number, number, number, number], seed: number): Drawn {
  const elements = tf.util.sizeFromShape(shape);
  if (elements > 2 ** 32) throw new Error(`bench: a tensor must have at most 2^32 elements, got ${elements}.`);
  const {device} = backend;
  const {STORAGE, COPY_SRC, COPY_DST} = GPUBufferUsage;
  const buffer = device.createBuffer({size: FLOAT * elements, usage: STORAGE | COPY_SRC | COPY_DST});
  // Ranges begin at multiples of 256 bytes.
  const range = Math.floor(bindingLimit(device) / 256) * 64;
  for (let first = 0; first < elements; first += range) {
    const items = Math.min(range, elements - first);
    submitPasses(backend, [
      {
        key: 'bench_drawn',
        code: () => CODE,
        bindings: BINDINGS,
        buffers: [{buffer, offset: FLOAT * first, size: FLOAT * items}],
        uniforms: {seedLow: seed, sourceFirst: first} as UniformValues,
        items,
        itemsPerWorkgroup: THREADS,
        flopsPerWorkgroup: 1e5,
      },
    ]);
  }
  const tensor = tf.tensor({buffer, zeroCopy: true}, shape) as tf.Tensor4D;
  const release = (): void => {
    tensor.dispose();
    buffer.destroy();
  };
  return {tensor, bytes: FLOAT * elements, release};
}

/** Some elements of a tensor on the device, in order from `first`, without the others. */
export async function readElements(
  {device}: WebGPUBackend,
  buffer: GPUBuffer,
  first: number,
  count: number,
): Promise<Float32Array> {
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
