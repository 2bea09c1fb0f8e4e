/**
 * @file WebGPU calls with tensors larger than a storage binding: they run in slices and give the bits of a whole call.
 * The tests lower the limit, so that small tensors are too large.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import fc from 'fast-check';
import {flashMaskAttention, masks, type FlashMask, type FlashMaskAttentionOptions} from '../../src/entries/index.js';
import type {Problem} from '../../src/call/problem.js';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {lowerBindingLimit} from '../../src/backends/webgpu/run/size_limits.js';
import {regionBytes, regionOf, type Slice, type TensorName} from '../../src/backends/webgpu/run/slice_views.js';
import {slicesOf} from '../../src/backends/webgpu/run/slices.js';
import {HEAD_SIZE} from '../support/cases.js';
import {devices} from '../support/devices.js';
import {integer, seeded} from '../support/random.js';

const webgpu = devices.find(({name}) => name === 'webgpu')!;

interface Call {
  name: string;
  sizes: Pick<Problem, 'B' | 'H' | 'Hkv' | 'Sq' | 'Sk' | 'D' | 'Dv' | 'layout'>;
  mask: () => FlashMask | tf.Tensor4D | null;
  options?: Omit<FlashMaskAttentionOptions, 'returnLogSumExp'>;
  /** Key heads, of one batch or of all batches, whose largest tensor fits the limit. */
  keyHeadsAtOnce: number;
  /** The number of slices of the call. */
  slices: number;
  /** Whether something must be copied. Default true; false where slices are contiguous and aligned. */
  copies?: boolean;
}

/** Bounds of the form [LTS, LTE, UTS, UTE] that differ between `heads` heads and between batches. */
function randomBounds(batches: number, heads: number, Sq: number, Sk: number): tf.Tensor4D {
  const random = seeded(`${batches} ${heads} ${Sq} ${Sk}`);
  const bounds = Int32Array.from({length: batches * heads * Sk * 4}, () => integer(random, 0, Sq + 1));
  return tf.tensor4d(bounds, [batches, heads, Sk, 4], 'int32');
}

const even = {B: 1, H: 4, Hkv: 4, Sq: 64, Sk: 64, D: HEAD_SIZE, Dv: HEAD_SIZE};
const grouped = {B: 2, H: 6, Hkv: 3, Sq: 96, Sk: 96, D: HEAD_SIZE, Dv: HEAD_SIZE};
const odd = {B: 2, H: 6, Hkv: 3, Sq: 37, Sk: 51, D: 33, Dv: 3};

const calls: Call[] = [
  {
    name: 'bhsd, heads of a multiple of 256 bytes, one mask for all',
    sizes: {...even, layout: 'bhsd'},
    mask: () => masks.causalDocument([30, 34]),
    keyHeadsAtOnce: 2,
    slices: 2,
    copies: false,
  },
  {
    name: 'bhsd, a last slice that is smaller',
    sizes: {...even, H: 3, Hkv: 3, layout: 'bhsd'},
    mask: () => null,
    options: {causal: true},
    keyHeadsAtOnce: 2,
    slices: 2,
    copies: false,
  },
  {
    name: 'bshd, one mask for all',
    sizes: {...even, layout: 'bshd'},
    mask: () => masks.causalDocument([30, 34]),
    keyHeadsAtOnce: 1,
    slices: 4,
  },
  {
    name: 'bhsd, grouped heads, a mask a query head and batch, dropout',
    sizes: {...grouped, layout: 'bhsd'},
    mask: () => randomBounds(2, 6, 96, 96),
    options: {dropout: 0.3, seed: 12345678901},
    keyHeadsAtOnce: 2,
    slices: 4,
    copies: false,
  },
  {
    name: 'bshd, grouped heads, a mask a key head, dropout',
    sizes: {...grouped, layout: 'bshd'},
    mask: () => randomBounds(1, 3, 96, 96),
    options: {dropout: 0.3, seed: 7},
    keyHeadsAtOnce: 1,
    slices: 6,
  },
  {
    name: 'bhsd, heads that begin anywhere, a mask a query head',
    sizes: {...odd, layout: 'bhsd'},
    mask: () => randomBounds(1, 6, 37, 51),
    keyHeadsAtOnce: 2,
    slices: 4,
  },
  {
    name: 'bshd, odd sizes, a mask a batch, dropout',
    sizes: {...odd, layout: 'bshd'},
    mask: () => randomBounds(2, 1, 37, 51),
    options: {dropout: 0.2, seed: 3},
    keyHeadsAtOnce: 1,
    slices: 6,
  },
  {
    name: 'bshd, whole batches, which begin at multiples of 256 bytes',
    sizes: {...grouped, B: 3, layout: 'bshd'},
    mask: () => randomBounds(3, 1, 96, 96),
    options: {dropout: 0.3, seed: 5},
    keyHeadsAtOnce: 6,
    slices: 2,
    copies: false,
  },
  {
    name: 'bhsd, whole batches, which begin anywhere',
    sizes: {...odd, B: 3, layout: 'bhsd'},
    mask: () => randomBounds(3, 1, 37, 51),
    options: {dropout: 0.3, seed: 5},
    keyHeadsAtOnce: 4,
    slices: 3,
  },
  {
    name: 'few queries, folded heads, keys split',
    sizes: {B: 2, H: 6, Hkv: 3, Sq: 3, Sk: 512, D: HEAD_SIZE, Dv: HEAD_SIZE, layout: 'bhsd'},
    mask: () => randomBounds(2, 3, 3, 512),
    options: {dropout: 0.3, seed: 5},
    keyHeadsAtOnce: 2,
    slices: 4,
  },
];

const backendNow = (): WebGPUBackend => tf.backend() as unknown as WebGPUBackend;

function inputsOf({B, H, Hkv, Sq, Sk, D, Dv, layout}: Call['sizes']): tf.Tensor[] {
  const noise = (heads: number, rows: number, channels: number, seed: number): tf.Tensor =>
    tf.randomNormal(layout === 'bshd' ? [B, rows, heads, channels] : [B, heads, rows, channels], 0, 1, 'float32', seed);
  const dLse = tf.randomNormal([B, H, Sq], 0, 1, 'float32', 5);
  return [noise(H, Sq, D, 1), noise(Hkv, Sk, D, 2), noise(Hkv, Sk, Dv, 3), noise(H, Sq, Dv, 4), dLse];
}

const resultNames = ['out', 'lse', 'dq', 'dk', 'dv', 'dq without dLse'] as const;

/** out, lse and the gradients; then dq once more without a gradient through lse. */
function attend({sizes, mask, options}: Call, [q, k, v, dOut, dLse]: tf.Tensor[]): tf.Tensor[] {
  return tf.tidy(() => {
    const bounds = mask();
    const run = (qi: tf.Tensor, ki: tf.Tensor, vi: tf.Tensor): [tf.Tensor4D, tf.Tensor3D] =>
      flashMaskAttention(qi as tf.Tensor4D, ki as tf.Tensor4D, vi as tf.Tensor4D, bounds, {
        ...options,
        layout: sizes.layout,
        returnLogSumExp: true,
      });
    const objective = (withLse: boolean) => (qi: tf.Tensor, ki: tf.Tensor, vi: tf.Tensor) => {
      const [out, lse] = run(qi, ki, vi);
      const through = tf.sum(tf.mul(out, dOut));
      return withLse ? tf.add(through, tf.sum(tf.mul(tf.where(tf.isFinite(lse), lse, 0), dLse))) : through;
    };
    const [dqAlone] = tf.grads(objective(false))([q, k, v]);
    return [...run(q, k, v), ...tf.grads(objective(true))([q, k, v]), dqAlone];
  });
}

interface Observed {
  values: Uint32Array[];
  /** Labels of this library's passes. */
  passes: string[];
  /** Largest storage binding of these passes. */
  largestBinding: number;
  compiled: string[];
}

const OURS = /^(forward|combine|delta|dq|dkdv|bounds_map|schedule|copy)/;

/** Runs the call; returns the bits of its results and its use of the device. */
async function observe(call: Call, inputs: tf.Tensor[], limit: number | null): Promise<Observed> {
  const {device} = backendNow();
  const observed: Observed = {values: [], passes: [], largestBinding: 0, compiled: []};
  const group = device.createBindGroup.bind(device);
  device.createBindGroup = (descriptor) => {
    if (OURS.test(descriptor.label ?? '')) {
      observed.passes.push(descriptor.label!);
      for (const {resource} of descriptor.entries) {
        const {buffer, size} = resource as GPUBufferBinding;
        observed.largestBinding = Math.max(observed.largestBinding, size ?? buffer.size);
      }
    }
    return group(descriptor);
  };
  const compile = device.createComputePipeline.bind(device);
  device.createComputePipeline = (descriptor) => {
    if (OURS.test(descriptor.label ?? '')) observed.compiled.push(descriptor.label!);
    return compile(descriptor);
  };
  lowerBindingLimit(device, limit);
  let results: tf.Tensor[];
  try {
    results = attend(call, inputs);
  } finally {
    lowerBindingLimit(device, null);
    device.createBindGroup = group;
    device.createComputePipeline = compile;
  }
  for (const result of results) {
    const data = (await result.data()) as Float32Array;
    observed.values.push(new Uint32Array(data.buffer, data.byteOffset, data.length));
  }
  tf.dispose(results);
  return observed;
}

function limitOf({sizes: {H, Hkv, Sq, Sk, D, Dv}, keyHeadsAtOnce}: Call): number {
  return 4 * keyHeadsAtOnce * Math.max((H / Hkv) * Sq, Sk) * Math.max(D, Dv);
}

/** Each slice runs the forward pass three times: for out and lse, and in each of the two gradients. */
const FORWARDS = 3;

(webgpu.skip ? describe.skip : describe)(`slices on webgpu${webgpu.skip ? ` (${webgpu.skip})` : ''}`, () => {
  before(() => webgpu.setup());

  for (const call of calls) {
    it(call.name, async () => {
      const inputs = inputsOf(call.sizes);
      const whole = await observe(call, inputs, null);
      const sliced = await observe(call, inputs, limitOf(call));
      expect(await webgpu.hiddenErrors()).to.deep.equal([]);
      const count = (name: string): number => sliced.passes.filter((label) => label.startsWith(name)).length;
      expect(count('forward')).to.equal(FORWARDS * call.slices);
      expect(count('copy') > 0, 'copies').to.equal(call.copies ?? true);
      expect(sliced.largestBinding).to.be.at.most(limitOf(call));
      expect(sliced.compiled.filter((label) => !label.startsWith('copy'))).to.deep.equal([]);
      resultNames.forEach((name, i) => {
        expect(
          sliced.values[i].some((x) => x !== 0),
          `${name} is something`,
        ).to.equal(true);
        expect(sliced.values[i], name).to.deep.equal(whole.values[i]);
      });
      tf.dispose(inputs);
    });
  }

  it('a mask has one bounds map and schedule for the passes over queries and one for dkdv, which all slices and whole calls share', async () => {
    const mask = masks.causalDocument([20, 44]);
    const call = {...calls[0], mask: () => mask};
    const inputs = inputsOf(call.sizes);
    const sliced = await observe(call, inputs, limitOf(call));
    const whole = await observe(call, inputs, null);
    const made = ({passes}: Observed): number[] =>
      ['bounds_map', 'schedule'].map((name) => passes.filter((label) => label.startsWith(name)).length);
    expect(made(sliced)).to.deep.equal([2, 4]);
    expect(made(whole)).to.deep.equal([0, 0]);
    expect(sliced.values).to.deep.equal(whole.values);
    tf.dispose(inputs);
  });

  it('holds copies of one slice at a time, and frees them', async () => {
    const {device, bufferManager} = backendNow();
    const call = calls[2];
    const inputs = inputsOf(call.sizes);
    const limit = limitOf(call);
    await observe(call, inputs, limit);
    const memory = (): {numBytesInGPU: number; numBytesAllocatedInGPU: number} => tf.memory() as never;
    const before = memory();
    const copied: GPUBuffer[] = [];
    const acquire = bufferManager.acquireBuffer.bind(bufferManager);
    const forward = (): tf.Tensor =>
      flashMaskAttention(inputs[0] as tf.Tensor4D, inputs[1] as tf.Tensor4D, inputs[2] as tf.Tensor4D);
    bufferManager.acquireBuffer = (size, usage) => {
      const buffer = acquire(size, usage);
      if (usage === GPUBufferUsage.STORAGE) copied.push(buffer);
      return buffer;
    };
    lowerBindingLimit(device, limit);
    forward().dispose();
    lowerBindingLimit(device, null);
    bufferManager.acquireBuffer = acquire;
    // q, k, v and out, one head each.
    expect(copied.map(({size}) => size)).to.deep.equal([limit, limit, limit, limit]);
    expect(memory().numBytesInGPU).to.equal(before.numBytesInGPU);
    expect(memory().numBytesAllocatedInGPU).to.equal(before.numBytesAllocatedInGPU);
    tf.dispose(inputs);
  });

  it('refuses a key head that does not fit alone, before anything runs', () => {
    const {device} = backendNow();
    const [q, k, v] = inputsOf({...grouped, layout: 'bhsd'}) as tf.Tensor4D[];
    lowerBindingLimit(device, 12000);
    const tensors = tf.memory().numTensors;
    try {
      expect(() => flashMaskAttention(q, k, v, null, {layout: 'bhsd'})).to.throw(
        /a key head and its query heads in q must fit one WebGPU storage binding, got 12288 bytes on a device that binds 12000\. Use a shorter/,
      );
    } finally {
      lowerBindingLimit(device, null);
    }
    expect(tf.memory().numTensors - tensors).to.be.at.most(1);
    tf.dispose([q, k, v]);
  });
});

describe('slices', () => {
  const deviceOf = (binding: number, buffer: number): GPUDevice =>
    ({
      limits: {maxStorageBufferBindingSize: binding, maxBufferSize: buffer, minStorageBufferOffsetAlignment: 256},
    }) as GPUDevice;
  const names = ['q', 'k', 'v', 'out', 'lse'] as const;
  const long: Problem = {
    ...{B: 1, H: 32, Hkv: 32, Sq: 131072, Sk: 131072, D: 128, Dv: 128, layout: 'bhsd', causal: true},
    ...{maskB: 1, Hm: 1, n: 0},
  } as const;
  const heads = (slices: Slice[]): number[] => slices.map(({keyHeads}) => keyHeads);

  it('are one, the whole call, where everything fits', () => {
    expect(slicesOf(deviceOf(2 ** 31, 2 ** 31), long, names)).to.deep.equal([
      {batch: 0, batches: 1, keyHead: 0, keyHeads: 32},
    ]);
  });

  it('are two halves for 2 GiB on a device that binds four bytes less', () => {
    expect(heads(slicesOf(deviceOf(2 ** 31 - 4, 2 ** 40), long, names))).to.deep.equal([16, 16]);
  });

  it('are small where they are copied', () => {
    const slices = slicesOf(deviceOf(2 ** 31 - 4, 2 ** 40), {...long, layout: 'bshd'}, names);
    expect(heads(slices)).to.deep.equal(Array(8).fill(4));
    expect(regionBytes(regionOf({...long, layout: 'bshd'}, 'q', slices[0]))).to.equal(2 ** 28);
  });

  it('count with what the passes need besides', () => {
    const scratch = {'a float16 copy': 2 ** 28};
    expect(slicesOf(deviceOf(2 ** 31 - 4, 2 ** 40), long, names, scratch)).to.have.length(5);
    expect(() => slicesOf(deviceOf(2 ** 28 - 4, 2 ** 40), long, names, scratch)).to.throw(
      /query heads in a float16 copy must fit one WebGPU storage binding, got 268435456 bytes/,
    );
  });

  it('do not help where a tensor fits no buffer', () => {
    expect(() => slicesOf(deviceOf(2 ** 30, 2 ** 31 - 4), long, names)).to.throw(
      /flashMaskAttention: q must fit one WebGPU buffer, got 2147483648 bytes on a device whose buffers hold 2147483644/,
    );
  });

  it('together hold each element of each tensor once', () => {
    const size = (max: number): fc.Arbitrary<number> => fc.integer({min: 1, max});
    const sizes = fc.record({
      B: size(3),
      Hkv: size(4),
      group: size(3),
      Sq: size(9),
      Sk: size(9),
      D: size(6),
      Dv: size(6),
    });
    fc.assert(
      fc.property(
        sizes,
        fc.constantFrom('bshd' as const, 'bhsd' as const),
        size(30),
        ({group, ...s}, layout, units) => {
          const p: Problem = {...long, ...s, H: s.Hkv * group, layout};
          const most = 4 * Math.max(group * s.Sq, s.Sk) * Math.max(s.D, s.Dv);
          const slices = slicesOf(deviceOf(most * units, 2 ** 40), p, names);
          for (const name of names) expectEachElementOnce(p, name, slices);
        },
      ),
    );
  });
});

function expectEachElementOnce(p: Problem, name: TensorName, slices: Slice[]): void {
  const channels = {q: p.D, k: p.D, v: p.Dv, out: p.Dv, lse: 1}[name as 'q'];
  const [heads, length] = name === 'k' || name === 'v' ? [p.Hkv, p.Sk] : [p.H, p.Sq];
  const seen = new Uint8Array(p.B * heads * length * channels);
  for (const slice of slices) {
    const region = regionOf(p, name, slice);
    for (let row = 0; row < region.rows; row++) {
      for (let i = 0; i < region.length; i++) seen[region.first + row * region.stride + i]++;
    }
  }
  expect(
    seen.every((times) => times === 1),
    `${name} of ${JSON.stringify(slices)}`,
  ).to.equal(true);
}
