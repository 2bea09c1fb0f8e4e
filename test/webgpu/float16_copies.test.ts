/**
 * @file Calls on subgroup matrices from the op to the queue, whole and in slices, on Dawn's null adapter, which finds
 * wrong bindings and leaks but computes nothing.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {flashMaskAttention, masks} from '../../src/entries/index.js';
import {createWebGPUBackend} from '../../src/entries/webgpu.js';
import type {Problem} from '../../src/call/problem.js';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {lowerBindingLimit} from '../../src/backends/webgpu/run/size_limits.js';
import {float16Bytes} from '../../src/backends/webgpu/passes/float16_copies.js';
import {MATRIX_FEATURES} from '../../src/backends/webgpu/device/matrix_probe.js';
import {allowMatrices} from '../../src/backends/webgpu/device/capabilities.js';
import {loadMatrixCode} from '../../src/backends/webgpu/device/matrix_code.js';
import {nullDevice} from '../support/null_device.js';

const NAME = 'webgpu-null';
const sizes = {B: 1, H: 6, Hkv: 3, Sq: 50, Sk: 50, D: 20, Dv: 12, layout: 'bhsd'} as const;
const problem: Problem = {...sizes, causal: true, maskB: 1, Hm: 1, n: 1};

/** Bytes of the float16 copies of one key head, the largest first. */
const copyBytes = (channels: number): number[] =>
  Object.values(float16Bytes(problem, {pass: 'dq', channels, halvesPerNumber: 1, causal: true, intervals: true})).sort(
    (a, b) => b - a,
  );

/** tfjs checks `navigator.gpu` before it takes a device. */
async function withNavigator<T>(run: () => Promise<T>): Promise<T> {
  const own = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
  Object.defineProperty(globalThis, 'navigator', {value: {gpu: {}}, configurable: true});
  try {
    return await run();
  } finally {
    if (own) Object.defineProperty(globalThis, 'navigator', own);
    else Reflect.deleteProperty(globalThis, 'navigator');
  }
}

interface Observed {
  /** Labels of this library's dispatches. */
  passes: string[];
  largestBinding: number;
  /** Sizes of storage buffers that were acquired and released. */
  scratch: number[];
}

describe('float16 copies', () => {
  let device: GPUDevice;
  let current: string;

  before(async () => {
    current = tf.getBackend();
    device = await nullDevice(...MATRIX_FEATURES);
    await withNavigator(() => createWebGPUBackend({name: NAME, device}));
    // With these matrices small heads fit into 16 KiB.
    loadMatrixCode();
    allowMatrices(device, {M: 8, N: 8, K: 8, lanes: 32});
  });

  after(async () => {
    tf.removeBackend(NAME);
    if (current) await tf.setBackend(current);
  });

  const backendNow = (): WebGPUBackend => tf.backend() as unknown as WebGPUBackend;

  /** Runs a gradient with `precision: 'float16'`; reading it throws its errors. */
  async function observe(limit: number | null): Promise<Observed> {
    const {B, H, Hkv, Sq, Sk, D, Dv, layout} = sizes;
    const ones = (heads: number, rows: number, channels: number): tf.Tensor4D => tf.ones([B, heads, rows, channels]);
    const [q, k, v] = [ones(H, Sq, D), ones(Hkv, Sk, D), ones(Hkv, Sk, Dv)];
    const observed: Observed = {passes: [], largestBinding: 0, scratch: []};
    const group = device.createBindGroup.bind(device);
    device.createBindGroup = (descriptor) => {
      if (/^(magnitude|float16_copies|matrix_\w+|forward|delta|dq|dkdv|copy_rows) /.test(descriptor.label ?? '')) {
        observed.passes.push(descriptor.label!);
        for (const {resource} of descriptor.entries) {
          const {buffer, size} = resource as GPUBufferBinding;
          observed.largestBinding = Math.max(observed.largestBinding, size ?? buffer.size);
        }
      }
      return group(descriptor);
    };
    const {bufferManager} = backendNow();
    const release = bufferManager.releaseBuffer.bind(bufferManager);
    bufferManager.releaseBuffer = (buffer, reuse) => {
      if (buffer.usage === GPUBufferUsage.STORAGE) observed.scratch.push(buffer.size);
      release(buffer, reuse);
    };
    lowerBindingLimit(device, limit);
    const gradients = tf.grads((...x) => {
      const [a, b, c] = x as tf.Tensor4D[];
      return flashMaskAttention(a, b, c, masks.causalDocument([20, 30]), {layout, precision: 'float16'});
    })([q, k, v]);
    lowerBindingLimit(device, null);
    bufferManager.releaseBuffer = release;
    device.createBindGroup = group;
    for (const gradient of gradients) await gradient.data();
    tf.dispose([q, k, v, ...gradients]);
    return observed;
  }

  it('are made of whole calls, and given back', async () => {
    const {passes, scratch} = await observe(null);
    expect(passes.map((label) => label.split(' ')[0])).to.deep.equal([
      ...['magnitude', 'float16_copies', 'matrix_forward'],
      ...['delta', 'magnitude', 'magnitude', 'float16_copies', 'float16_copies', 'matrix_dq', 'matrix_dkdv'],
    ]);
    for (const bytes of copyBytes(32)) expect(scratch).to.include(sizes.Hkv * bytes);
  });

  it('are those of one slice at a time, in the same buffers', async () => {
    const [largest] = copyBytes(32);
    const {passes, largestBinding, scratch} = await observe(2 * largest);
    const count = (name: string): number => passes.filter((label) => label.startsWith(name)).length;
    expect(['matrix_forward', 'matrix_dq', 'matrix_dkdv'].map(count)).to.deep.equal([2, 2, 2]);
    expect(count('float16_copies')).to.equal(2 * (1 + 2));
    expect(largestBinding).to.equal(2 * largest);
    for (const bytes of copyBytes(32)) expect(scratch.filter((size) => size === 2 * bytes)).to.have.length.above(0);
    expect(scratch).to.not.include(largest);
  });
});
