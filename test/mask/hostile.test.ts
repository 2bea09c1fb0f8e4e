/**
 * @file Random hostile arguments: one argument of a good call is replaced by anything. Every builder, every method of a
 * mask and the op must then work or throw a short error in the library's form, never an error of the engine.
 */
import {strict as assert} from 'node:assert';
import * as tf from '@tensorflow/tfjs';
import fc from 'fast-check';
import {FlashMask, flashMaskAttention, hashOrder, masks, toSVG} from '../../src/entries/index.js';
import {circular, deep, wide} from '../support/odd_arrays.js';

const seed = Number(process.env.FLASHMASK_SEED ?? 20241001);

/** Most characters that an error may have to stay readable. */
const LONGEST = 700;

const causal = masks.causal(4);
const lookAlike = Object.assign({}, masks.document([2, 2]));
const numbers = [
  0,
  -0,
  1,
  -1,
  0.5,
  3,
  2 ** 30,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 53,
  3.5e38,
  1e-320,
  NaN,
  Infinity,
  -Infinity,
];
const texts = ['', '3', 'causal', 'x'.repeat(100_000), '\0\n'];

/** Values that fit neither a tensor nor a mask, created at each draw. */
const odd: (() => unknown)[] = [
  () => undefined,
  () => null,
  () => true,
  () => 5n,
  () => 10n ** 2000n,
  () => Symbol('s'.repeat(1000)),
  () => () => 3,
  () => ({}),
  () => Object.create(null) as unknown,
  () => ({['k'.repeat(100_000)]: 1}),
  () => Object.fromEntries(Array.from({length: 1000}, (_, i) => [`key${i}`, i])),
  () => ({length: 3}),
  () => ({constructor: 5, toString: null}),
  () => new Map([[1, 2]]),
  () => new Date(NaN),
  circular,
  () => deep(100_000),
  () => wide(4),
  () => [],
  () => [[]],
  () => [[[[]]]],
  () => [[[[{}]]]],
  () => [[[['1']]]],
  () => [[[[1n]]]],
  () => new Array<unknown>(3),
  () => new Array<unknown>(2 ** 32 - 1),
  () => new Array<unknown>(1000).fill('y'.repeat(1000)),
  () => new DataView(new ArrayBuffer(8)),
  () => BigInt64Array.of(1n, 2n),
  () => Float32Array.of(0.5, NaN),
  () => lookAlike,
  () => JSON.parse(JSON.stringify(causal)) as unknown,
  () => causal,
  () => ({dataId: {}, dtype: 'float32', shape: [1, 4, 1, 2], rank: 4}),
  () => ({dataId: {}, dtype: 'int32', shape: 3}),
  () => tf.ones([2, 2]),
  () => tf.ones([1, 1, 4, 2], 'int32'),
  () => tf.ones([1, 1, 4, 4], 'bool'),
  () => tf.tensor(['text']),
  () => tf.zeros([0]),
];

const hostile: fc.Arbitrary<() => unknown> = fc.oneof(
  {weight: 3, arbitrary: fc.constantFrom(...odd)},
  {weight: 2, arbitrary: fc.constantFrom(...numbers, ...texts).map((value) => () => value)},
  {
    weight: 1,
    arbitrary: fc.anything({maxDepth: 3, withBigInt: true, withTypedArray: true}).map((value) => () => value),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(fc.constantFrom(...odd), fc.constantFrom(...numbers), fc.boolean()).map(
      ([value, number, first]) =>
        () =>
          first ? [value(), number] : [number, value()],
    ),
  },
);

/** A call that works; the test replaces one of its arguments or options. */
interface Good {
  name: string;
  call: (...args: never[]) => unknown;
  args: () => unknown[];
}

const {q, k, v} = {q: tf.ones([1, 4, 2, 2]), k: tf.ones([1, 4, 1, 2]), v: tf.ones([1, 4, 1, 3])};
const bounds = [2, 2, 4, 4];
const fields = {name: 'mine', causal: true, queryLength: 4, keyLength: 4, batch: 1, heads: 1, vectors: 1, bounds: Int32Array.from(bounds), boundsTensor: null}; // prettier-ignore

const builders: Good[] = [
  {name: 'full', call: masks.full, args: () => [4, {queryLength: 2}]},
  {name: 'causal', call: masks.causal, args: () => [4, {queryLength: 2}]},
  {name: 'slidingWindow', call: masks.slidingWindow, args: () => [4, 2, {queryLength: 2}]},
  {name: 'causalDocument', call: masks.causalDocument, args: () => [[1, 2], {total: 3, padTo: 4}]},
  {name: 'document', call: masks.document, args: () => [[[1, 2], [2]], {padTo: 4}]},
  {name: 'sharedQuestion', call: masks.sharedQuestion, args: () => [[2, 1, 1], {padTo: 6}]},
  {name: 'globalSlidingWindow', call: masks.globalSlidingWindow, args: () => [8, [1, 2], 1]},
  {name: 'causalBlockwise', call: masks.causalBlockwise, args: () => [[2, 2], {total: 4}]},
  {name: 'prefixLmCausal', call: masks.prefixLmCausal, args: () => [4, [1, 2], {queryLength: 2}]},
  {name: 'prefixLmDocument', call: masks.prefixLmDocument, args: () => [[2, 2], [1, 0], {padTo: 6}]},
  {name: 'qkSparse', call: masks.qkSparse, args: () => [4, [[1, 2]]]},
  {
    name: 'hashSparse',
    call: masks.hashSparse,
    args: () => [
      [1, 0, 1],
      [0, 1, 1],
    ],
  },
  {name: 'randomEviction', call: masks.randomEviction, args: () => [4, 2, {heads: 2, batch: 1, seed: 1}]},
  {name: 'window', call: masks.window, args: () => [4, [1, 1], {queryLength: 2, causal: true}]},
  {name: 'fromSegmentIds', call: masks.fromSegmentIds, args: () => [[0, 0, 1], {causal: true, queryIds: [0, 1, 1]}]},
  {name: 'fromDense', call: masks.fromDense, args: () => [[1, 0, 1, 1], {shape: [2, 2], name: 'mine'}]},
  {
    name: 'fromStartEndRowIndices',
    call: masks.fromStartEndRowIndices,
    args: () => [bounds, {causal: true, queryLength: 4, shape: [1, 1, 4, 1], name: 'mine'}],
  },
  {name: 'padding', call: masks.padding, args: () => [tf.ones([1, 3]), {causal: true, crossAttention: false}]},
  {name: 'segments', call: masks.segments, args: () => [tf.zeros([1, 3], 'int32'), {causal: true}]},
  {name: 'hashOrder', call: hashOrder, args: () => [[1, 0, 1]]},
];

const values: Good[] = [
  {name: 'new FlashMask', call: (given: never) => new FlashMask(given), args: () => [{...fields}]},
  {name: 'toDense', call: (b: never, h: never) => causal.toDense(b, h), args: () => [0, 0]},
  {name: 'sparsity', call: (options: never) => causal.sparsity(options), args: () => [{blockQ: 2, blockK: 2}]},
  {name: 'toString', call: (options: never) => causal.toString(options), args: () => [{blocks: 2, batch: 0, head: 0}]},
  {
    name: 'toSVG',
    call: toSVG as (...args: never[]) => unknown,
    args: () => [causal, {title: 'mine', blockQ: 2, blockK: 2, batch: 0, head: 0, theme: 'dark'}],
  },
];

const op: Good = {
  name: 'flashMaskAttention',
  call: flashMaskAttention as (...args: never[]) => unknown,
  args: () => [
    q,
    k,
    v,
    causal,
    {causal: true, scale: 1, layout: 'bshd', dropout: 0, seed: 1, returnLogSumExp: false, precision: 'auto', deterministic: false}, // prettier-ignore
  ],
};

/** What can be replaced: each argument, and each option of the last one. */
function places({args}: Good): [at: number, option: string | null][] {
  return args().flatMap((arg, at): [number, string | null][] => {
    const isOptions = typeof arg === 'object' && Object.getPrototypeOf(arg) === Object.prototype;
    return [[at, null], ...(isOptions ? Object.keys(arg as object).map((key): [number, string] => [at, key]) : [])];
  });
}

function spoilt({args}: Good, [at, option]: [number, string | null], value: unknown): unknown[] {
  const all = args();
  all[at] = option === null ? value : {...(all[at] as object), [option]: value};
  return all;
}

/** Runs a call that may throw, but only in the library's form. */
function expectWorksOrRefuses({call}: Good, args: unknown[]): void {
  try {
    tf.tidy(() => void call(...(args as never[])));
  } catch (error) {
    const {message, constructor, stack} = error as Error;
    assert.equal(constructor, Error, stack);
    assert.match(message, /^(masks\.\w+|hashOrder|toSVG|FlashMask(\.\w+)?|flashMaskAttention): .*, got .*\. .*\.$/s);
    assert.ok(message.length <= LONGEST, `${message.length} characters: ${message}`);
  }
}

describe('hostile arguments', () => {
  before(async () => {
    await tf.setBackend('cpu');
  });

  it('every builder is tried', () => {
    assert.deepEqual(builders.map(({name}) => name).sort(), [...Object.keys(masks), 'hashOrder'].sort());
  });

  for (const good of [...builders, ...values, op]) {
    it(`${good.name} works, or says what is wrong`, () => {
      tf.tidy(() => void good.call(...(good.args() as never[])));
      for (const place of places(good)) {
        for (const value of [...odd, ...[...numbers, ...texts].map((x) => () => x)]) {
          tf.tidy(() => expectWorksOrRefuses(good, spoilt(good, place, value())));
        }
      }
      const property = fc.property(fc.constantFrom(...places(good)), hostile, (place, value) => {
        tf.tidy(() => expectWorksOrRefuses(good, spoilt(good, place, value())));
      });
      fc.assert(property, {seed, numRuns: 200});
    });
  }
});
