/**
 * @file The op's arguments: every error before a kernel runs, the overloads, the chained form, and calls without pairs.
 */
import {strict as assert} from 'node:assert';
import * as tf from '@tensorflow/tfjs';
import {checkPrecision} from '../../ops/check_arguments.js';
import {
  FlashMask,
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type FlashMaskAttentionOptions,
  type MaskLike,
  clearBoundsCache,
  flashMaskAttention,
} from '../../src/entries/index.js';
import {addChainedOp} from '../../ops/chained.js';
import {BOUNDS_CACHE_SIZE} from '../../src/mask/bounds/bounds_cache.js';
import {registerAll} from '../../src/entries/register_all.js';
import {circular} from '../support/odd_arrays.js';

/** B 2, Sq 6, Sk 8, H 4, Hkv 2, D 5, Dv 3 in layout 'bshd'. */
function inputs() {
  return {
    q: tf.randomNormal([2, 6, 4, 5], 0, 1, 'float32', 1) as tf.Tensor4D,
    k: tf.randomNormal([2, 8, 2, 5], 0, 1, 'float32', 2) as tf.Tensor4D,
    v: tf.randomNormal([2, 8, 2, 3], 0, 1, 'float32', 3) as tf.Tensor4D,
  };
}

type Inputs = Record<'q' | 'k' | 'v', tf.Tensor>;

/** A wrong call: arguments that replace good ones, and what the error must say. */
interface Wrong {
  what: string;
  inputs?: (good: Inputs) => Partial<Inputs>;
  mask?: () => unknown;
  options?: object;
  says: RegExp;
}

const zeros =
  (shape: number[], dtype: tf.DataType = 'float32') =>
  (): tf.Tensor =>
    tf.zeros(shape, dtype);

function flashMask(fields: Partial<ConstructorParameters<typeof FlashMask>[0]>): FlashMask {
  const {batch = 1, heads = 1, keyLength = 8, vectors = 1} = fields;
  const bounds = new Int32Array(batch * heads * keyLength * vectors).fill(6);
  return new FlashMask({causal: true, queryLength: 6, keyLength, vectors, bounds, ...fields});
}

/** A mask of another copy of the library: another class with the same mark. */
function copyOf(mask: FlashMask, fields: object = {}): FlashMask {
  class OtherFlashMask {
    get [Symbol.for('tfjs-flashmask.FlashMask')](): boolean {
      return true;
    }
  }
  return Object.assign(new OtherFlashMask(), mask, fields) as unknown as FlashMask;
}

const wrongCalls: Wrong[] = [
  {
    what: 'q of rank 3',
    inputs: () => ({q: tf.zeros([2, 6, 5])}),
    says: /q must have rank 4, \[B, Sq, H, D\], got shape \[2, 6, 5\]/,
  },
  {what: 'v of rank 5', inputs: () => ({v: tf.zeros([1, 2, 8, 2, 3])}), says: /v must have rank 4, \[B, Sk, Hkv, Dv\]/},
  {
    what: 'an int32 k',
    inputs: ({k}) => ({k: k.toInt()}),
    says: /k must be float32, got int32\. Cast it with k\.toFloat/,
  },
  {what: 'a bool v', inputs: ({v}) => ({v: v.toBool()}), says: /v must be float32, got bool/},
  {what: 'q that is no tensor', inputs: () => ({q: 'text' as never}), says: /q must be a tensor .*got 'text'/},
  {
    what: 'arrays without numbers',
    inputs: () => ({q: [[[[{}]]]] as never}),
    says: /q\[0\]\[0\]\[0\]\[0\] must be a number, got an object with no keys/,
  },
  {what: 'arrays of rank 3', inputs: () => ({q: [[[1]]] as never}), says: /q must have 4 axes, got 3\. Nest/},
  {
    what: 'an array that contains itself',
    inputs: () => ({v: circular() as never}),
    says: /v must have 4 axes, got more than 4 \(or an array that contains itself\)/,
  },
  {
    what: 'a tensor that went through JSON',
    inputs: ({k}) => ({k: JSON.parse(JSON.stringify(k)) as never}),
    says: /k must be a tensor .*got an object with the keys kept, /,
  },
  {what: 'k that is missing', inputs: () => ({k: undefined}), says: /k must be a tensor .*got undefined/},
  {
    what: 'another batch size in k',
    inputs: () => ({k: tf.zeros([3, 8, 2, 5])}),
    says: /q and k must have the same batch size, got 2 and 3/,
  },
  {
    what: 'another batch size in v',
    inputs: () => ({v: tf.zeros([1, 8, 2, 3])}),
    says: /k and v must have the same batch size, got 2 and 1/,
  },
  {
    what: 'another length in v',
    inputs: () => ({v: tf.zeros([2, 9, 2, 3])}),
    says: /k and v must have the same length, got 8 and 9/,
  },
  {
    what: 'other heads in v',
    inputs: () => ({v: tf.zeros([2, 8, 4, 3])}),
    says: /k and v must have the same number of heads, got 2 and 4/,
  },
  {
    what: 'another head size in k',
    inputs: () => ({k: tf.zeros([2, 8, 2, 7])}),
    says: /q and k must have the same head size, got 5 and 7/,
  },
  {
    what: 'query heads that are no multiple of the key heads',
    inputs: () => ({q: tf.zeros([2, 6, 3, 5])}),
    says: /multiple of the number of key heads, got H 3 and Hkv 2 .*layout: 'bhsd'/,
  },
  {what: 'no heads', inputs: () => ({q: tf.zeros([2, 6, 0, 5])}), says: /positive multiple .*got H 0/},
  {
    what: 'D over 256',
    inputs: () => ({q: tf.zeros([2, 6, 4, 257]), k: tf.zeros([2, 8, 2, 257])}),
    says: /D \(the last axis of q and k\) must be from 1 to 256, got 257/,
  },
  {
    what: 'Dv over 256',
    inputs: () => ({v: tf.zeros([2, 8, 2, 300])}),
    says: /Dv \(the last axis of v\) must be from 1 to 256, got 300/,
  },
  {what: 'Dv 0', inputs: () => ({v: tf.zeros([2, 8, 2, 0])}), says: /Dv .* from 1 to 256, got 0/},
  {
    what: 'tensors in the other layout',
    options: {layout: 'bhsd'},
    says: /If the axes are in the other order, pass {layout: 'bshd'}/,
  },
  {
    what: 'a disposed k',
    inputs: ({k}) => {
      k.dispose();
      return {k};
    },
    says: /k must not be disposed, got a disposed tensor of shape \[2, 8, 2, 5\]/,
  },

  {
    what: 'an options object in place of the mask',
    mask: () => ({causal: true}),
    says: /mask must be .*the keys causal\. .*fifth argument/,
  },
  {
    what: 'an array as mask',
    mask: () => [[1, 0], [1, 1]], // prettier-ignore
    says: /mask must be a FlashMask, an int32 tensor .*got \[\[1, 0\], \[1, 1\]\]\. .*masks\.fromDense/,
  },
  {
    what: 'an object with the fields of a mask',
    mask: () => Object.assign({}, flashMask({})),
    says: /mask must be a FlashMask, .*got an object with the keys name, .*new FlashMask\(fields\)/,
  },
  {
    what: 'a mask of another copy whose fields do not fit',
    mask: () => copyOf(flashMask({}), {bounds: Int32Array.of(1)}),
    says: /bounds must have 8 values for \[1, 1, 8, 1\] .*got 1/,
  },
  {
    what: 'a long text as mask',
    mask: () => 'x'.repeat(100_000),
    says: /got 'x{60}\.\.\. \(100000 characters\)'/,
  },
  ...(['float32', 'int32', 'bool'] as const).map((dtype) => ({
    what: `a dense ${dtype} mask of rank 2`,
    mask: zeros([6, 8], dtype),
    says: /mask must have rank 4, .*got shape \[6, 8\]\. .*masks\.fromDense\(await mask\.data\(\), .*mask\.equal\(0\)/,
  })),
  {
    what: 'a dense mask of rank 3',
    mask: zeros([2, 6, 8]),
    says: /got shape \[2, 6, 8\]\. .*masks\.fromDense.*mask\.expandDims\(1\)/,
  },
  {what: 'a dense float mask of rank 4', mask: zeros([2, 1, 6, 8]), says: /got float32\. .*masks\.fromDense/},
  {what: 'a dense int mask of rank 4', mask: zeros([2, 1, 6, 8], 'int32'), says: /got 6 .*masks\.fromDense/},
  {
    what: 'two vectors without causal',
    mask: zeros([1, 1, 8, 2], 'int32'),
    says: /with two vectors causal must be given, got none\. .*LTS and LTE, .*LTS and UTE/,
  },
  {
    what: 'a mask tensor of rank 2',
    mask: zeros([8, 1], 'int32'),
    says: /mask must have rank 4, \[B, Hm, Sk, n\], got shape \[8, 1\]/,
  },
  {
    what: 'float bounds',
    mask: zeros([1, 1, 8, 2]),
    says: /mask must be int32, got float32\. Cast it with mask\.toInt\(\)/,
  },
  {
    what: 'a dense bool mask',
    mask: zeros([1, 1, 6, 8], 'bool'),
    says: /mask must be int32, got bool\..*masks\.fromDense/,
  },
  {
    what: 'bounds for other keys',
    mask: zeros([1, 1, 9, 2], 'int32'),
    says: /mask must have 8 keys \(its third axis\), got 9/,
  },
  {
    what: 'one bound without causal',
    mask: zeros([1, 1, 8, 1], 'int32'),
    says: /must be 0 or 2 or 4 with causal: false, got 1\..*causal: true/,
  },
  {what: 'three bounds', mask: zeros([1, 1, 8, 3], 'int32'), says: /must be 0 or 2 or 4 with causal: false, got 3/},
  {
    what: 'four bounds with causal',
    mask: zeros([1, 1, 8, 4], 'int32'),
    options: {causal: true},
    says: /must be 0 or 1 or 2 with causal: true, got 4/,
  },
  {
    what: 'bounds for another batch',
    mask: zeros([3, 1, 8, 2], 'int32'),
    says: /batch size of mask must be 1 or 2, got 3/,
  },
  {
    what: 'bounds for other heads',
    mask: zeros([1, 3, 8, 2], 'int32'),
    says: /heads of mask must be 1 or 2 or 4, got 3/,
  },
  {
    what: 'disposed bounds',
    mask: () => {
      const bounds = tf.zeros([1, 1, 8, 2], 'int32');
      bounds.dispose();
      return bounds;
    },
    says: /mask must not be disposed/,
  },
  {
    what: 'a mask for other lengths',
    mask: () => flashMask({keyLength: 9}),
    says: /'custom' must be for 6 queries and 8 keys, got a mask for 6 queries and 9/,
  },
  {
    what: 'a mask for another batch',
    mask: () => flashMask({batch: 3}),
    says: /batch size of the mask 'custom' must be 1 or 2, got 3/,
  },
  {
    what: 'a mask for other heads',
    mask: () => flashMask({heads: 3, name: 'mine'}),
    says: /heads of the mask 'mine' must be 1 or 2 or 4, got 3/,
  },
  {
    what: 'causal against the mask',
    mask: () => flashMask({}),
    options: {causal: false},
    says: /option causal must agree with the mask 'custom' \(causal: true\), got causal: false/,
  },

  {what: 'an unknown option', options: {casual: true}, says: /options must be among causal, scale, .*got 'casual'/},
  {what: 'options that are no object', options: true as unknown as object, says: /options must be an object, got true/},
  {what: 'a causal that is no boolean', options: {causal: 'yes'}, says: /causal must be true or false, got 'yes'/},
  {
    what: 'a returnLogSumExp that is no boolean',
    options: {returnLogSumExp: 1},
    says: /returnLogSumExp must be true or false, got 1/,
  },
  {
    what: 'a deterministic that is no boolean',
    options: {deterministic: null},
    says: /deterministic must be true or false, got null/,
  },
  {what: 'a NaN scale', options: {scale: NaN}, says: /scale must be a finite number of at least 0, got NaN/},
  {what: 'a negative scale', options: {scale: -0.5}, says: /scale must be .*got -0.5/},
  {what: 'an infinite scale', options: {scale: Infinity}, says: /scale must be .*got Infinity/},
  {what: 'a scale past float32', options: {scale: 3.5e38}, says: /scale must be at most 2\.358e38, .*got 3\.5e\+38/},
  {
    what: 'a scale past float32 once it counts in powers of two',
    options: {scale: 2.359e38},
    says: /scale must be at most 2\.358e38/,
  },
  {what: 'a scale that is a tensor', options: {scale: {}}, says: /scale must be .*got an object/},
  {what: 'dropout 1', options: {dropout: 1}, says: /dropout must be a probability in \[0, 1\), got 1\./},
  {what: 'negative dropout', options: {dropout: -0.1}, says: /dropout must be .*got -0.1/},
  {what: 'NaN dropout', options: {dropout: NaN}, says: /dropout must be .*got NaN/},
  {
    what: 'a negative seed',
    options: {dropout: 0.1, seed: -1},
    says: /seed must be an integer from 0 to 2\^53 - 1, got -1/,
  },
  {what: 'a fractional seed', options: {seed: 1.5}, says: /seed must be .*got 1.5/},
  {what: 'an unsafe seed', options: {seed: 2 ** 53}, says: /seed must be .*got 9007199254740992/},
  {what: 'an unknown layout', options: {layout: 'sbhd'}, says: /layout must be 'bshd' or 'bhsd', got 'sbhd'/},
  {
    what: 'an unknown precision',
    options: {precision: 'fp8'},
    says: /precision must be one of auto, float32, .*got 'fp8'/,
  },
  {
    what: 'float16 on cpu',
    options: {precision: 'float16'},
    says: /precision on the backend 'cpu' .*'auto' and 'float32'\), got 'float16'/,
  },
  {what: 'bfloat16 on cpu', options: {precision: 'bfloat16'}, says: /precision on the backend 'cpu' .*got 'bfloat16'/},
];

describe('flashMaskAttention', () => {
  before(async () => {
    await tf.setBackend('cpu');
  });

  describe('refuses', () => {
    for (const wrong of wrongCalls) {
      it(wrong.what, () => {
        tf.tidy(() => {
          const good = inputs();
          const {q, k, v} = {...good, ...wrong.inputs?.(good)} as typeof good;
          const mask = wrong.mask?.() as MaskLike | undefined;
          const call = (): tf.Tensor =>
            flashMaskAttention(q, k, v, mask, wrong.options as {returnLogSumExp?: false} | undefined);
          assert.throws(call, (error: Error) => {
            assert.match(error.message, wrong.says);
            assert.match(error.message, /^flashMaskAttention: .*, got .*\. .*\.$/s);
            return true;
          });
        });
      });
    }

    it('half precisions that a WebGPU device lacks', () => {
      const device = (...features: string[]): object => ({device: {features: new Set(features)}});
      assert.throws(
        () => checkPrecision('float16', 'webgpu', device()),
        /needs a WebGPU device with the feature shader-f16/,
      );
      assert.doesNotThrow(() => checkPrecision('float16', 'webgpu', device('shader-f16')));
      assert.throws(
        () => checkPrecision('bfloat16', 'webgpu', device('shader-f16')),
        /with shader-f16, 'float16'\), got 'bfloat16'/,
      );
    });

    it('a backend that is not ready', async () => {
      const {q, k, v} = inputs();
      tf.registerBackend('never ready', () => new Promise(() => {}), 0);
      void tf.setBackend('never ready');
      try {
        assert.throws(() => flashMaskAttention(q, k, v), /a tfjs backend must be ready, .*await tf\.setBackend/);
      } finally {
        tf.removeBackend('never ready');
        await tf.setBackend('cpu');
      }
    });

    it('without running a kernel, making a tensor or touching the inputs', async () => {
      const {q, k, v} = inputs();
      const {numTensors} = tf.memory();
      const profile = await tf.profile(() => {
        assert.throws(() => flashMaskAttention(q, k, v, null, {scale: -1}));
        assert.throws(() => flashMaskAttention(q, k, tf.zeros([2, 9, 2, 3])));
        return q;
      });
      assert.deepEqual(
        profile.kernelNames.filter((name) => name.startsWith('FlashMask')),
        [],
      );
      assert.equal(tf.memory().numTensors, numTensors + 1);
      assert.equal(q.isDisposed, false);
    });
  });

  describe('gives', () => {
    const maxDifference = (a: tf.Tensor, b: tf.Tensor): number => tf.max(tf.abs(tf.sub(a, b))).dataSync()[0];

    it('out alone, or out and lse, in the layout of q', () => {
      const {q, k, v} = inputs();
      const out: tf.Tensor4D = flashMaskAttention(q, k, v);
      const [same, lse]: [tf.Tensor4D, tf.Tensor3D] = flashMaskAttention(q, k, v, null, {returnLogSumExp: true});
      const options: FlashMaskAttentionOptions = {};
      const either: tf.Tensor4D | [tf.Tensor4D, tf.Tensor3D] = flashMaskAttention(q, k, v, null, options);
      assert.deepEqual(out.shape, [2, 6, 4, 3]);
      assert.deepEqual(lse.shape, [2, 4, 6]);
      assert.equal(maxDifference(out, same), 0);
      assert.equal(maxDifference(out, either as tf.Tensor4D), 0);
      const swap = (x: tf.Tensor): tf.Tensor => tf.transpose(x, [0, 2, 1, 3]);
      const heads = flashMaskAttention(swap(q), swap(k), swap(v), undefined, {layout: 'bhsd'});
      assert.deepEqual(heads.shape, [2, 4, 6, 3]);
      assert.equal(maxDifference(swap(out), heads), 0);
    });

    it('the same for nested arrays as for tensors', () => {
      const {q, k, v} = inputs();
      const arrays = flashMaskAttention(q.arraySync(), k.arraySync(), v.arraySync(), null, {causal: true});
      assert.equal(maxDifference(arrays, flashMaskAttention(q, k, v, null, {causal: true})), 0);
    });

    it('the same for a mask, its tensor, and the chained op', () => {
      const {q, k, v} = inputs();
      const bounds = Int32Array.from([2, 3, 3, 6, 5, 6, 6, 6]);
      const mask = flashMask({bounds});
      const tensor = tf.tensor4d(bounds, [1, 1, 8, 1], 'int32');
      const expected = flashMaskAttention(q, k, v, mask);
      assert.equal(maxDifference(flashMaskAttention(q, k, v, tensor, {causal: true}), expected), 0);
      assert.equal(maxDifference(flashMaskAttention(q, k, v, mask.toTensor(), {causal: true}), expected), 0);
      const inTensor = new FlashMask({causal: true, queryLength: 6, keyLength: 8, vectors: 1, boundsTensor: tensor});
      assert.equal(maxDifference(flashMaskAttention(q, k, v, inTensor), expected), 0);
      assert.equal(maxDifference(flashMaskAttention(q, k, v, copyOf(mask)), expected), 0);
      assert.equal(maxDifference(q.flashMaskAttention(k, v, mask), expected), 0);
      const [, lse] = q.flashMaskAttention(k, v, mask, {returnLogSumExp: true});
      assert.deepEqual(lse.shape, [2, 4, 6]);
      assert.ok(maxDifference(expected, flashMaskAttention(q, k, v, null, {causal: true})) > 0.01);
    });

    it('the scale 1/√D unless told', () => {
      const {q, k, v} = inputs();
      const out = flashMaskAttention(q, k, v);
      assert.equal(maxDifference(out, flashMaskAttention(q, k, v, null, {scale: 1 / Math.sqrt(5)})), 0);
      const mean = flashMaskAttention(q, k, v, null, {scale: 0});
      const expected = tf.mean(v, 1, true).reshape([2, 1, 2, 1, 3]).tile([1, 6, 1, 2, 1]).reshape([2, 6, 4, 3]);
      assert.ok(maxDifference(mean, expected) < 1e-6);
    });

    it('two vectors as causal says', () => {
      const {q, k, v} = inputs();
      const bounds = tf.tensor4d(Array.from({length: 8}, (_, j) => [j, 6]).flat(), [1, 1, 8, 2], 'int32');
      for (const causal of [true, false]) {
        const mask = flashMask({causal, vectors: 2, bounds: Int32Array.from(bounds.dataSync())});
        const out = flashMaskAttention(q, k, v, bounds, {causal});
        assert.equal(maxDifference(out, flashMaskAttention(q, k, v, mask)), 0);
      }
      const out = flashMaskAttention(q, k, v, bounds, {causal: true});
      assert.ok(maxDifference(out, flashMaskAttention(q, k, v, bounds, {causal: false})) > 0.01);
    });

    it('finite numbers at the smallest and largest scales', () => {
      const {q, k, v} = inputs();
      for (const scale of [0, Number.MIN_VALUE, 1e-40, 1e30]) {
        const out = flashMaskAttention(q, k, v, null, {scale});
        assert.ok(out.dataSync().every(Number.isFinite), `scale ${scale}`);
      }
      const mean = flashMaskAttention(q, k, v, null, {scale: 0});
      assert.ok(maxDifference(flashMaskAttention(q, k, v, null, {scale: 1e-40}), mean) < 1e-6);
      const tiny = tf.mul(q, 1e-30) as tf.Tensor4D;
      const largest = flashMaskAttention(tiny, tf.mul(k, 1e-8) as tf.Tensor4D, v, null, {scale: 2.358e38});
      assert.ok(largest.dataSync().every(Number.isFinite));
    });

    it('other dropped pairs for another seed, and for no seed at each call', () => {
      const {q, k, v} = inputs();
      const drop = (seed?: number): tf.Tensor => flashMaskAttention(q, k, v, null, {dropout: 0.5, seed});
      assert.equal(maxDifference(drop(1), drop(1)), 0);
      assert.ok(maxDifference(drop(1), drop(2)) > 0.01);
      assert.ok(maxDifference(drop(1), drop(2 ** 32 + 1)) > 0.01);
      assert.ok(maxDifference(drop(), drop()) > 0.01);
    });

    it('empty outputs for no batch or no queries', () => {
      const {k, v} = inputs();
      const [out, lse] = flashMaskAttention(tf.zeros([2, 0, 4, 5]), k, v, null, {returnLogSumExp: true});
      assert.deepEqual([out.shape, lse.shape], [[2, 0, 4, 3], [2, 4, 0]]); // prettier-ignore
      const none = flashMaskAttention(tf.zeros([0, 6, 4, 5]), tf.zeros([0, 8, 2, 5]), tf.zeros([0, 8, 2, 3]));
      assert.deepEqual(none.shape, [0, 6, 4, 3]);
    });

    it('0 and -Infinity without keys, with zero gradients', () => {
      const {q} = inputs();
      const k = tf.zeros([2, 0, 2, 5]);
      const v = tf.zeros([2, 0, 2, 3]);
      const [out, lse] = flashMaskAttention(q, k, v, null, {returnLogSumExp: true});
      assert.deepEqual(out.shape, [2, 6, 4, 3]);
      assert.ok(out.dataSync().every((x) => x === 0));
      assert.ok(lse.dataSync().every((x) => x === -Infinity));
      const [dq, dk] = tf.grads((a, b) => flashMaskAttention(a, b, v).sum())([q, k]);
      assert.ok(dq.dataSync().every((x) => x === 0));
      assert.deepEqual([dq.shape, dk.shape], [q.shape, k.shape]);
    });
  });

  describe('registers', () => {
    it('once, without a word, however often it is asked', () => {
      const kernels = [FlashMaskAttention, FlashMaskAttentionGrad].map((name) => tf.getKernel(name, 'cpu'));
      const gradients = [FlashMaskAttention, FlashMaskAttentionGrad].map((name) => tf.getGradient(name));
      const {warn, log} = console;
      const said: unknown[] = [];
      console.warn = console.log = (...args: unknown[]) => void said.push(args);
      try {
        registerAll();
        addChainedOp();
      } finally {
        Object.assign(console, {warn, log});
      }
      assert.deepEqual(said, []);
      [FlashMaskAttention, FlashMaskAttentionGrad].forEach((name, i) => {
        assert.equal(tf.getKernel(name, 'cpu'), kernels[i]);
        assert.equal(tf.getGradient(name), gradients[i]);
      });
    });
  });

  describe('keeps the bounds of masks', () => {
    it('in one tensor a mask, in a few tensors at most, and in none once cleared', () => {
      const {q, k, v} = inputs();
      clearBoundsCache();
      const {numTensors} = tf.memory();
      const run = (mask: FlashMask): void => tf.dispose(flashMaskAttention(q, k, v, mask));
      const mask = flashMask({});
      run(mask);
      run(mask);
      assert.equal(tf.memory().numTensors, numTensors + 1);
      for (let i = 0; i < BOUNDS_CACHE_SIZE + 3; i++) run(flashMask({name: `mask ${i}`}));
      assert.equal(tf.memory().numTensors, numTensors + BOUNDS_CACHE_SIZE);
      clearBoundsCache();
      assert.equal(tf.memory().numTensors, numTensors);
    });

    it('inside and outside of tidy, and while a tape still needs them', () => {
      const {q, k, v} = inputs();
      const mask = flashMask({bounds: Int32Array.from([2, 3, 3, 6, 5, 6, 6, 6])});
      const expected = tf.grad((x) => flashMaskAttention(x, k, v, mask).sum())(q);
      const cleared = tf.grad((x) => {
        const out = flashMaskAttention(x, k, v, mask).sum();
        clearBoundsCache();
        return out;
      })(q);
      assert.deepEqual(cleared.dataSync(), expected.dataSync());
      tf.tidy(() => void flashMaskAttention(q, k, v, mask));
      assert.equal(flashMaskAttention(q, k, v, mask).isDisposed, false);
    });
  });
});
