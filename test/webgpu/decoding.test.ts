/**
 * @file Decoding, that is few queries: how calls are planned, and WebGPU calls with more splits than their lengths
 * would get, so that splits are short, see nothing, or walk over more tiles than one round classifies. The table of
 * cases has calls of common size.
 */
import {createHash} from 'node:crypto';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import * as fc from 'fast-check';
import {
  type SplitLimits,
  SPLIT_LIMITS,
  NO_SPLIT,
  keySplitOf,
  keysOf,
  workgroupsOf,
} from '../../src/backends/webgpu/plan/decoding.js';
import {clearBoundsCache, flashMaskAttention} from '../../src/entries/index.js';
import type {FlashMaskAttentionAttrs, FlashMaskAttentionGradInputs} from '../../src/call/kernel_names.js';
import {FEW_QUERIES} from '../../src/backends/webgpu/plan/vector_plan.js';
import {MAP_BLOCK} from '../../src/call/constants.js';
import type {Problem} from '../../src/call/problem.js';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {backward} from '../../src/backends/webgpu/backward.js';
import {forward} from '../../src/backends/webgpu/forward.js';
import {flashMaskAttentionConfig, flashMaskAttentionGradConfig} from '../../src/backends/webgpu/kernel.js';
import {attend} from '../support/attend.js';
import {cases, prepare} from '../support/cases.js';
import {type ActualResult, compare} from '../support/compare.js';
import {denseFloat32} from '../support/dense_float32.js';
import {devices} from '../support/devices.js';
import {full} from '../support/full.js';
import {oracle} from '../support/oracle.js';
import {LONGEST, forwardWeights, picture, pictureOf} from '../support/pair_pictures.js';

const pass = {fewQueries: true, blockQ: 16, blockK: 32};

const problem = (sizes: Partial<Problem>): Problem => ({
  ...{B: 1, H: 32, Hkv: 32, Sq: 1, Sk: 32768, D: 128, Dv: 128, layout: 'bshd', causal: true, maskB: 1, Hm: 1, n: 0},
  ...sizes,
});

describe('the cut of few queries', () => {
  const keySplit = (sizes: Partial<Problem>) => {
    const {foldedHeads, splits} = keySplitOf(problem(sizes), pass);
    return [foldedHeads, splits];
  };

  it('splits keys until there are workgroups for a large GPU', () => {
    expect(keySplit({})).to.deep.equal([1, 32]);
    expect(keySplit({B: 3})).to.deep.equal([1, 11]);
    expect(keySplit({B: 32})).to.deep.equal([1, 1]);
    expect(keySplit({B: 33})).to.deep.equal([1, 1]);
  });

  it('leaves each split four key blocks', () => {
    expect([1, 224, 225, 352, 353].map((Sk) => keySplit({Sk})[1])).to.deep.equal([1, 1, 2, 2, 3]);
  });

  it('folds the heads of a group that fit 16 rows', () => {
    expect(keySplit({Hkv: 8})).to.deep.equal([4, 128]);
    expect(keySplit({Hkv: 8, Sq: 4})[0]).to.equal(4);
    expect(keySplit({Hkv: 8, Sq: 5})[0]).to.equal(2);
    expect(keySplit({Hkv: 8, Sq: 9})[0]).to.equal(1);
    expect(keySplit({H: 6, Hkv: 1, Sq: 4})[0]).to.equal(3);
    expect(keySplit({H: 7, Hkv: 1, Sq: 4})[0]).to.equal(1);
    expect(keySplit({H: 64, Hkv: 1})[0]).to.equal(16);
  });

  it('folds no heads that have masks of their own', () => {
    expect(keySplit({Hkv: 8, Hm: 8, n: 1})[0]).to.equal(4);
    expect(keySplit({Hkv: 8, Hm: 32, n: 1})[0]).to.equal(1);
  });

  it('leaves a call of many queries alone', () => {
    const many = {fewQueries: false, blockQ: 64, blockK: 32};
    const p = problem({Sq: 100, Hkv: 8});
    expect(keySplitOf(p, many)).to.equal(NO_SPLIT);
    expect(workgroupsOf(p, many, NO_SPLIT)).to.equal(64);
    expect(keysOf(p, many, NO_SPLIT)).to.equal(32768);
  });

  it('fills the device or leaves splits short, whatever the sizes', () => {
    const sizes = fc.record({
      B: fc.integer({min: 1, max: 40}),
      Hkv: fc.integer({min: 1, max: 40}),
      groupSize: fc.integer({min: 1, max: 20}),
      Sq: fc.integer({min: 1, max: FEW_QUERIES}),
      Sk: fc.integer({min: 1, max: 1 << 20}),
    });
    const check = ({groupSize, ...rest}: {B: number; Hkv: number; groupSize: number; Sq: number; Sk: number}) => {
      const p = problem({...rest, H: rest.Hkv * groupSize});
      const {foldedHeads, splits} = keySplitOf(p, pass);
      const workgroups = workgroupsOf(p, pass, {foldedHeads, splits});
      const blocks = Math.ceil(p.Sk / pass.blockK);
      expect(foldedHeads * p.Sq).to.be.at.most(Math.max(pass.blockQ, p.Sq));
      expect(groupSize % foldedHeads).to.equal(0);
      if (splits > 1) {
        expect(blocks / splits).to.be.at.least(SPLIT_LIMITS.keyBlocks);
        expect(workgroups).to.be.below(2 * SPLIT_LIMITS.workgroups);
      }
      if (workgroups < SPLIT_LIMITS.workgroups) expect(blocks / (splits + 1)).to.be.below(SPLIT_LIMITS.keyBlocks);
      expect(keysOf(p, pass, {foldedHeads, splits}) * splits).to.be.within(p.Sk, p.Sk + pass.blockK * splits);
    };
    fc.assert(fc.property(sizes, check), {seed: 1});
  });
});

const webgpu = devices.find(({name}) => name === 'webgpu')!;

/** Registers the WebGPU kernels with other limits while `body` runs. */
async function withLimits(limits: SplitLimits, body: () => Promise<void>): Promise<void> {
  const standard = [flashMaskAttentionConfig, flashMaskAttentionGradConfig];
  const kernels = [forward, backward];
  const replace = (configs: tf.KernelConfig[]) => {
    for (const config of configs) {
      tf.unregisterKernel(config.kernelName, config.backendName);
      tf.registerKernel(config);
    }
  };
  const limited = standard.map((config, i): tf.KernelConfig => {
    const kernelFunc: tf.KernelFunc = ({inputs, backend, attrs}) =>
      kernels[i](
        backend as WebGPUBackend,
        inputs as unknown as FlashMaskAttentionGradInputs,
        attrs as unknown as FlashMaskAttentionAttrs,
        limits,
      );
    return {...config, kernelFunc};
  });
  replace(limited);
  try {
    await body();
  } finally {
    replace(standard);
  }
}

/** Limits that give each key block its own split, and limits that give two splits at any length. */
const everyBlock = {workgroups: 1024, keyBlocks: 1};
const two = {workgroups: 2, keyBlocks: 1};

/** A hash of all results: comparing such large arrays element by element takes longer than computing them. */
function bitsOf(results: ActualResult): string {
  const hash = createHash('sha256');
  for (const values of Object.values(results)) hash.update(values as Float32Array);
  return hash.digest('hex');
}

const backendNow = (): WebGPUBackend => tf.backend() as unknown as WebGPUBackend;

/** Keys of the compute pipelines that `run` creates. */
async function compiledBy(run: () => Promise<void>): Promise<string[]> {
  const {device} = backendNow();
  const labels: string[] = [];
  const create = device.createComputePipeline.bind(device);
  device.createComputePipeline = (descriptor) => {
    labels.push(descriptor.label ?? '');
    return create(descriptor);
  };
  await run();
  device.createComputePipeline = create;
  // tfjs compiles its own pipelines too.
  return labels.filter((label) => /^(forward|combine_\w+|delta|dq|dkdv|bounds_map) /.test(label));
}

/** Runs one query of two heads against `Sk` keys of one head, with the gradient of q. */
async function decode(Sk: number): Promise<void> {
  const q = tf.randomNormal([1, 1, 2, 8], 0, 1, 'float32', 1) as tf.Tensor4D;
  const k = tf.randomNormal([1, Sk, 1, 8], 0, 1, 'float32', 2) as tf.Tensor4D;
  const gradient = tf.grad((x) => flashMaskAttention(x as tf.Tensor4D, k, k, null, {causal: true}))(q);
  await gradient.data();
  tf.dispose([q, k, gradient]);
}

(webgpu.skip ? describe.skip : describe)(`few queries on webgpu${webgpu.skip ? ` (${webgpu.skip})` : ''}`, () => {
  before(() => webgpu.setup());

  afterEach(async () => expect(await webgpu.hiddenErrors()).to.deep.equal([]));

  const few = cases.filter(({Sq, slowOnSoftware}) => Sq <= FEW_QUERIES && (full || !slowOnSoftware));
  const against = (limits: SplitLimits, chosen: typeof cases) => {
    for (const c of chosen) {
      it(`${c.group}: ${c.name}`, () =>
        withLimits(limits, async () => {
          const prepared = prepare({...c, deterministic: true});
          const actual = await attend(prepared);
          compare(actual, oracle(prepared.call), await denseFloat32(prepared.call));
          expect(bitsOf(await attend(prepared)), 'a second run').to.equal(bitsOf(actual));
        }));
    }
  };

  describe('a split for each key block', () => {
    against(
      everyBlock,
      few.filter(({group, Sk}) => group === 'few queries' && Sk % MAP_BLOCK !== 0 && Sk >= 257),
    );
  });

  describe('two splits of more tiles than one round classifies', () => {
    against(
      two,
      few.filter(({Sk}) => Sk > 4096),
    );
  });

  it('weighs exactly the pairs that it should, under dropout and masks of every form', () =>
    withLimits(everyBlock, async () => {
      const short = few.filter(({group, Sk}) => group === 'few queries' && Sk <= LONGEST);
      expect(short.length).to.equal(4);
      for (const c of short) {
        const prepared = prepare({...c, lse: false});
        const weights = await forwardWeights(prepared);
        for (let h = 0; h < c.H; h++) {
          expect(pictureOf(weights, prepared, 0, h), `${c.name}, head ${h}`).to.deep.equal(picture(prepared, 0, h));
        }
      }
    }));

  it('compiles nothing more as keys are added, but once the passes that combine splits', async () => {
    await decode(100);
    const once = await compiledBy(() => decode(300));
    expect(once).to.include('combine_out Dv=8');
    expect(once.every((key) => key.startsWith('combine_'))).to.equal(true);
    expect(await compiledBy(() => decode(400))).to.deep.equal([]);
    expect(await compiledBy(() => decode(700))).to.deep.equal([]);
  });

  it('gives its scratch back, and does not take more and more as keys are added', async () => {
    const {bufferManager} = backendNow();
    const bytes = () => (tf.memory() as tf.MemoryInfo & {numBytesInGPU: number}).numBytesInGPU;
    // Clears bounds of earlier tests, which calls with new lengths would evict.
    clearBoundsCache();
    await decode(300);
    const before = bytes();
    const sizes = new Set<number>();
    const acquire = bufferManager.acquireBuffer.bind(bufferManager);
    bufferManager.acquireBuffer = (...request) => {
      const [size, usage] = request;
      if (usage === GPUBufferUsage.STORAGE) sizes.add(size);
      return acquire(...request);
    };
    for (let splits = 2; splits <= 8; splits++) await decode(SPLIT_LIMITS.keyBlocks * MAP_BLOCK * splits);
    bufferManager.acquireBuffer = acquire;
    // The row statistics take 16 bytes; lse (8 bytes) and out or dq (64 bytes) are taken for 2, 4 and 8 splits.
    expect([...sizes].sort((a, b) => a - b)).to.deep.equal([16, 32, 64, 128, 256, 512]);
    expect(bytes()).to.equal(before);
  });
});
