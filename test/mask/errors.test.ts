/** @file Errors of masks: each names the function that refuses, the rule, the values got and the remedy. */
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import {expect} from 'chai';
import * as masks from '../../src/mask/builders/index.js';
import {toSVG} from '../../src/mask/pictures/svg.js';
import {FlashMask} from '../../src/mask/flash_mask.js';
import {circular, deep} from '../support/odd_arrays.js';

/** A wrong call and its whole error message. */
type Refusal = [name: string, call: () => unknown, message: string];

const whole = 'must be a whole number from';

const lengths: Refusal[] = [
  [
    'zero length',
    () => masks.causal(0),
    `masks.causal: length ${whole} 1 to 2147483647, got 0. Pass a number of tokens.`,
  ],
  ['fraction', () => masks.full(1.5), `masks.full: length ${whole} 1 to 2147483647, got 1.5. Pass a number of tokens.`],
  ['NaN', () => masks.full(NaN), `masks.full: length ${whole} 1 to 2147483647, got NaN. Pass a number of tokens.`],
  [
    'more bounds than a machine holds',
    () => masks.causalDocument([2 ** 31 - 1]),
    'masks.causalDocument: the bounds of a mask must be at most 536870912 numbers, got 2147483647 (1 × 1 × 2147483647 × 1). ' +
      'Use shorter rows, or fewer of them.',
  ],
  [
    'long text',
    () => masks.causal('x'.repeat(100_000) as never),
    `masks.causal: length ${whole} 1 to 2147483647, got '${'x'.repeat(60)}... (100000 characters)'. Pass a number.`,
  ],
  [
    'tensor',
    () => masks.document(tf.tensor1d([4], 'int32') as never),
    'masks.document: lengths must be an array, got a tensor of dtype int32 and shape [1]. Read it first: `await tensor.array()`.',
  ],
  [
    'too long',
    () => masks.full(2 ** 31),
    `masks.full: length ${whole} 1 to 2147483647, got 2147483648. Pass a number of tokens.`,
  ],
  ['text', () => masks.causal('8' as never), `masks.causal: length ${whole} 1 to 2147483647, got '8'. Pass a number.`],
  [
    'zero queries',
    () => masks.causal(4, {queryLength: 0}),
    `masks.causal: queryLength ${whole} 1 to 2147483647, got 0. Pass a number of tokens.`,
  ],
  [
    'negative document',
    () => masks.document([4, -1]),
    `masks.document: lengths[1] ${whole} 0 to 2147483647, got -1. Pass a number of tokens.`,
  ],
  [
    'fraction of a document in a batch',
    () => masks.causalDocument([[4], [3.5]]),
    `masks.causalDocument: lengths[1][0] ${whole} 0 to 2147483647, got 3.5. Pass a number of tokens.`,
  ],
  [
    'wrong sum',
    () => masks.causalDocument([3, 4], {total: 8}),
    'masks.causalDocument: lengths must sum to total = 8, got 7. Fix the lengths, or fill rows with padding by padTo.',
  ],
  [
    'wrong sum in a row',
    () =>
      masks.causalBlockwise(
        [
          [3, 5],
          [4, 3],
        ],
        {total: 8},
      ),
    'masks.causalBlockwise: lengths must sum to total = 8, got 7 in row 1. Fix the lengths, or fill rows with padding by padTo.',
  ],
  [
    'rows of unequal sums',
    () => masks.document([[3, 4], [5]]),
    'masks.document: lengths must sum to 7 in every row, as in row 0, got 5 in row 1. ' +
      'Fix the lengths, or fill rows with padding by padTo.',
  ],
  [
    'more than padTo',
    () => masks.document([3, 4], {padTo: 6}),
    'masks.document: lengths must sum to at most padTo = 6, got 7. Raise padTo, or pack fewer.',
  ],
  [
    'nothing',
    () => masks.document([0, 0]),
    'masks.document: lengths must sum to at least 1, got 0. A mask has at least one token.',
  ],
  [
    'no lengths',
    () => masks.document([]),
    'masks.document: lengths must not be empty, got []. ' +
      'Pass lengths as an array of numbers, or one such array for each row of the batch.',
  ],
  [
    'empty row',
    () => masks.document([[3], []]),
    'masks.document: lengths of every row must not be empty, got [] in row 1. Give it a length.',
  ],
  [
    'not a list',
    () => masks.document(7 as never),
    'masks.document: lengths must be an array, got 7. ' +
      'Pass lengths as an array of numbers, or one such array for each row of the batch.',
  ],
  [
    'mixed nesting',
    () => masks.document([3, [4]] as never),
    'masks.document: lengths must be all numbers or all arrays, got [3, [4]]. ' +
      'Pass lengths as an array of numbers, or one such array for each row of the batch.',
  ],
  [
    'padded blocks',
    () => masks.causalBlockwise([3], {padTo: 8} as never),
    'masks.causalBlockwise: rows cannot be padded, got padTo. ' +
      'Lengthen the last block: what follows the last token is seen by none of them.',
  ],
];

const spelling = 'Correct the spelling or leave it out.';

const options: Refusal[] = [
  [
    'unknown option',
    () => masks.window(4, 1, {casual: true} as never),
    `masks.window: options must be among queryLength, causal, got 'casual'. ${spelling}`,
  ],
  [
    'option of another builder',
    () => masks.document([4], {causal: true} as never),
    `masks.document: options must be among total, padTo, got 'causal'. ${spelling}`,
  ],
  [
    'options that are no object',
    () => masks.causal(4, 2 as never),
    'masks.causal: options must be an object, got 2. Pass for example {queryLength: ...} or leave it out.',
  ],
  [
    'causal that is no boolean',
    () => masks.fromSegmentIds([0], {causal: 'false'} as never),
    "masks.fromSegmentIds: causal must be true or false, got 'false'. Pass {causal: true} or leave it out.",
  ],
  [
    'long name of an option',
    () => masks.full(4, {['x'.repeat(100_000)]: 1} as never),
    `masks.full: options must be among queryLength, got '${'x'.repeat(60)}... (100000 characters)'. ${spelling}`,
  ],
];

const parameters: Refusal[] = [
  [
    'window of 0',
    () => masks.slidingWindow(8, 0),
    `masks.slidingWindow: window ${whole} 1 to 2147483647, got 0. Pass a number of tokens.`,
  ],
  [
    'negative side',
    () => masks.window(8, [1, -2]),
    `masks.window: right ${whole} 0 to 2147483647, got -2. Pass a number of tokens.`,
  ],
  [
    'three sides',
    () => masks.window(8, [1, 2, 3] as never),
    'masks.window: size must be a number or [left, right], got [1, 2, 3]. Pass one or two numbers.',
  ],
  [
    'more globals than tokens',
    () => masks.globalSlidingWindow(8, 2, 9),
    'masks.globalSlidingWindow: globals must be at most the length, 8, got 9. Lower it.',
  ],
  [
    'long prefix',
    () => masks.prefixLmCausal(8, [4, 9]),
    'masks.prefixLmCausal: prefix must be at most the length, 8, got 9. Lower it.',
  ],
  [
    'prefix longer than its document',
    () => masks.prefixLmDocument([3, 5], [3, 6]),
    "masks.prefixLmDocument: prefix 1 must be at most its document's length, 5, got 6. Count it into the length.",
  ],
  [
    'prefix missing',
    () =>
      masks.prefixLmDocument(
        [[3, 5], [8]],
        [
          [3, 5],
          [1, 2],
        ],
      ),
    'masks.prefixLmDocument: prefixes must have 1 numbers, one for each length, got 2 in row 1. Pass one a document.',
  ],
  [
    'groups nested unevenly',
    () => masks.sharedQuestion([[1, 2], 3] as never),
    'masks.sharedQuestion: groups must be nested equally deep, got [[1, 2], 3]. ' +
      'Pass [question, answer, ...], a list of these for a row, or a list of rows.',
  ],
  [
    'span that ends before it starts',
    () => masks.qkSparse(8, [[4, 3]]),
    'masks.qkSparse: a span must have 0 <= start < end <= 8, got [4, 3]. Give it at least a token of the row.',
  ],
  [
    'span past the end',
    () => masks.qkSparse(8, [[4, 9]]),
    'masks.qkSparse: a span must have 0 <= start < end <= 8, got [4, 9]. Give it at least a token of the row.',
  ],
  [
    'spans that overlap',
    () =>
      masks.qkSparse(8, [
        [4, 6],
        [1, 5],
      ]),
    'masks.qkSparse: spans must not overlap, got [[1, 5], [4, 6]]. Join them to one span.',
  ],
  [
    'hashes of rows of unequal length',
    () => masks.hashSparse([[1, 2], [1]]),
    'masks.hashSparse: queryHashes must be equally long in every row, got 1 in row 1. Pass one for every token.',
  ],
  [
    'fractional hash',
    () => masks.hashSparse([1, 0.5]),
    'masks.hashSparse: queryHashes must be whole numbers, got 0.5 at 1. Pass bucket numbers.',
  ],
  [
    'hashes of unlike batches',
    () => masks.hashSparse([[1], [1]], [1]),
    'masks.hashSparse: queryHashes and keyHashes must have as many rows as each other, got 2 and 1. ' +
      'Pass a row for each of the batch.',
  ],
  [
    'nothing to keep',
    () => masks.randomEviction(8, 0),
    `masks.randomEviction: keep ${whole} 1 to 2147483647, got 0. Pass a number of tokens.`,
  ],
  [
    'segment that comes back',
    () => masks.fromSegmentIds([0, 1, 0]),
    'masks.fromSegmentIds: ids of a segment must adjoin, got id 0 at 0 and again at 2 in row 0. ' +
      'Give the later segment another number, or order the tokens by segment.',
  ],
  [
    'fractional id',
    () => masks.fromSegmentIds([0, 1.5]),
    'masks.fromSegmentIds: ids must be whole numbers, got 1.5 at 1. Number the segments.',
  ],
  [
    'ids of unlike batches',
    () => masks.fromSegmentIds([[0], [0]], {queryIds: [0]}),
    'masks.fromSegmentIds: queryIds must have 2 rows, as ids, got 1. Pass a row for each of the batch.',
  ],
];

const flags = 'must be 0, 1, true or false';
const additive =
  'Use 1 for visible. An additive mask (0 and -Infinity) is converted by mask.equal(0), an array by x => x === 0.';
const readings =
  'with two vectors causal must be given, got none. ' +
  'Pass causal: true if the vectors are LTS and LTE, causal: false if they are LTS and UTE.';

const conversions: Refusal[] = [
  [
    'one vector without causal',
    () => masks.fromStartEndRowIndices([[[[1], [2]]]]),
    'masks.fromStartEndRowIndices: a mask with causal: false has 0, 2, 4 bounds a column, got 1. A mask that is not causal has ' +
      'LTS and UTE, or LTS, LTE, UTS and UTE. Pass causal: true for LTS alone.',
  ],
  [
    'four vectors with causal',
    () => masks.fromStartEndRowIndices([[[[1, 2, 3, 4]]]], {causal: true}),
    'masks.fromStartEndRowIndices: a mask with causal: true has 0, 1, 2 bounds a column, got 4. ' +
      'A causal mask has LTS, or LTS and LTE. Leave out causal: true for four vectors.',
  ],
  [
    'float bounds',
    () => masks.fromStartEndRowIndices([[[[1], [0.5]]]], {causal: true}),
    'masks.fromStartEndRowIndices: indices[0][0][1][0] must be a whole number of int32, got 0.5. ' +
      'Row bounds are rows, not weights: convert a dense mask with masks.fromDense().',
  ],
  [
    'bounds past int32',
    () => masks.fromStartEndRowIndices([[[[2 ** 31]]]], {causal: true}),
    'masks.fromStartEndRowIndices: indices[0][0][0][0] must be a whole number of int32, got 2147483648. ' +
      'Row bounds are rows, not weights: convert a dense mask with masks.fromDense().',
  ],
  [
    'float tensor',
    () => masks.fromStartEndRowIndices(tf.tensor4d([1, 2], [1, 1, 2, 1]), {causal: true}),
    'masks.fromStartEndRowIndices: indices must be int32, got float32. Cast the tensor with tensor.toInt().',
  ],
  [
    'tensor of rank 3',
    () => masks.fromStartEndRowIndices(tf.tensor3d([1, 2], [1, 2, 1], 'int32') as never, {causal: true}),
    'masks.fromStartEndRowIndices: indices must have the shape [batch, heads, keyLength, vectors], got [1, 2, 1]. Reshape the tensor.',
  ],
  [
    'flat array without shape',
    () => masks.fromStartEndRowIndices([1, 2]),
    'masks.fromStartEndRowIndices: indices must have 4 axes, got 1. ' +
      'Nest the arrays 4 deep, or pass {shape} with a flat array.',
  ],
  [
    'ragged arrays',
    () => masks.fromStartEndRowIndices([[[[1], [2, 3]]]], {causal: true}),
    'masks.fromStartEndRowIndices: indices[0][0][1] must have 1 elements, as the first of its kind, got 2. Make all rows equally long.',
  ],
  [
    'array of another length than its shape',
    () => masks.fromDense([1, 0, 1], {shape: [2, 2]}),
    'masks.fromDense: dense must have 4 values for shape [2, 2], got 3. Fix the shape.',
  ],
  [
    'shape of three axes',
    () => masks.fromDense([1, 0], {shape: [1, 1, 2]}),
    'masks.fromDense: shape must have 2 or 4 axes, got [1, 1, 2]. Pass the shape of the array.',
  ],
  [
    'dense tensor',
    () => masks.fromDense(tf.ones([2, 2]) as never),
    'masks.fromDense: dense must be an array, got a tensor of dtype float32 and shape [2, 2]. ' +
      'Pass `await tensor.data()` and {shape: tensor.shape}.',
  ],
  [
    'additive mask',
    () =>
      masks.fromDense([
        [0, -Infinity],
        [0, 0],
      ]),
    `masks.fromDense: dense[0][1] ${flags}, got -Infinity. ${additive}`,
  ],
  [
    'flat additive mask with a large number for infinity',
    () => masks.fromDense(Float32Array.of(0, 0, -1e9, 0), {shape: [2, 2]}),
    `masks.fromDense: dense[2] ${flags}, got -1000000000. ${additive}`,
  ],
  ['weights', () => masks.fromDense([[1, 0.5]]), `masks.fromDense: dense[0][1] ${flags}, got 0.5. ${additive}`],
  ['NaN', () => masks.fromDense([[NaN]]), `masks.fromDense: dense[0][0] ${flags}, got NaN. ${additive}`],
  [
    'picture of bytes',
    () => masks.fromDense(Uint8Array.of(0, 255), {shape: [1, 2]}),
    `masks.fromDense: dense[1] ${flags}, got 255. ${additive}`,
  ],
  [
    'array that contains itself',
    () => masks.fromDense(circular() as never),
    'masks.fromDense: dense must have 2 or 4 axes, got more than 4 (or an array that contains itself). ' +
      'Nest the arrays 2 or 4 deep, or pass {shape} with a flat array.',
  ],
  [
    'array that contains itself, of ids',
    () => masks.fromSegmentIds(circular() as never),
    'masks.fromSegmentIds: ids must be whole numbers, got [[[an array of length 1]]] at 0. Number the segments.',
  ],
  [
    'array of a hundred thousand levels, of groups',
    () => masks.sharedQuestion(deep(100_000) as never),
    'masks.sharedQuestion: groups must be nested equally deep, got [[[an array of length 1]]]. ' +
      'Pass [question, answer, ...], a list of these for a row, or a list of rows.',
  ],
  [
    'array of a hundred thousand levels, of bounds',
    () => masks.fromStartEndRowIndices(deep(100_000) as never, {causal: true}),
    'masks.fromStartEndRowIndices: indices must have 4 axes, got more than 4 (or an array that contains itself). ' +
      'Nest the arrays 4 deep, or pass {shape} with a flat array.',
  ],
  [
    'two vectors of a tensor without causal',
    () => masks.fromStartEndRowIndices(tf.zeros([1, 1, 2, 2], 'int32')),
    `masks.fromStartEndRowIndices: ${readings}`,
  ],
  [
    'two vectors of an array without causal',
    () => masks.fromStartEndRowIndices([[[[1, 2]]]]),
    `masks.fromStartEndRowIndices: ${readings}`,
  ],
  [
    'text in a dense mask',
    () => masks.fromDense([['x']] as never),
    `masks.fromDense: dense[0][0] ${flags}, got 'x'. ${additive}`,
  ],
  [
    'element that is not a number but a list',
    () => masks.fromDense([[1, [0]]] as never),
    `masks.fromDense: dense[0][1] ${flags}, got [0]. ${additive}`,
  ],
];

const sizes = {queryLength: 2, keyLength: 2} as const;
const tensor = tf.tensor4d([1, 2], [1, 1, 2, 1], 'int32');

const values: Refusal[] = [
  [
    'too few bounds',
    () => new FlashMask({...sizes, causal: true, vectors: 1, bounds: Int32Array.of(1)}),
    'FlashMask: bounds must have 2 values for [1, 1, 2, 1] ([batch, heads, keyLength, vectors]), got 1. Pass one for each.',
  ],
  [
    'bounds that are not int32',
    () => new FlashMask({...sizes, causal: true, vectors: 1, bounds: Float32Array.of(1, 2) as never}),
    'FlashMask: bounds must be an Int32Array, got [1, 2]. Convert whole numbers with Int32Array.from().',
  ],
  [
    'two vectors without causal',
    () => new FlashMask({...sizes, vectors: 2, bounds: Int32Array.of(1, 2, 1, 2)}),
    `FlashMask: ${readings}`,
  ],
  [
    'no fields',
    () => new FlashMask(null as never),
    `FlashMask: queryLength ${whole} 1 to 2147483647, got undefined. Pass a number.`,
  ],
  [
    'look-alike of a tensor',
    () => new FlashMask({...sizes, vectors: 0, boundsTensor: {dtype: 'int32', shape: [1, 1, 2, 0]} as never}),
    'FlashMask: boundsTensor must be a tensor, got an object with the keys dtype, shape. Make one with tf.tensor4d().',
  ],
  [
    'bounds in two places',
    () => new FlashMask({...sizes, causal: true, vectors: 1, bounds: Int32Array.of(1, 2), boundsTensor: tensor}),
    'FlashMask: the bounds live in one place, got both bounds and boundsTensor. Pass one of them.',
  ],
  [
    'tensor of another shape',
    () => new FlashMask({...sizes, keyLength: 3, causal: true, vectors: 1, boundsTensor: tensor}),
    'FlashMask: boundsTensor must have shape [1, 1, 3, 1] ([batch, heads, keyLength, vectors]), got int32 of shape [1, 1, 2, 1]. ' +
      'Reshape it.',
  ],
  [
    'batch it does not have',
    () => masks.causal(4).toDense(1),
    'FlashMask.toDense: batch must be a whole number from 0 to 0, got 1. The mask has 1.',
  ],
  [
    'head it does not have',
    () => toSVG(masks.causal(4), {head: -1}),
    'toSVG: head must be a whole number from 0 to 0, got -1. The mask has 1.',
  ],
  [
    'tiles without rows',
    () => masks.causal(4).sparsity({blockQ: 0}),
    `FlashMask.sparsity: blockQ ${whole} 1 to 2147483647, got 0. Pass a number of tokens.`,
  ],
  [
    'a picture of no mask',
    () => toSVG({} as never),
    'toSVG: mask must be a FlashMask, got an object with no keys. Build one with masks.',
  ],
  [
    'unknown theme',
    () => toSVG(masks.causal(4), {theme: 'sepia' as never}),
    "toSVG: theme must be 'auto', 'light' or 'dark', got 'sepia'. Pass one of them.",
  ],
];

describe('mask errors', () => {
  for (const [group, refusals] of Object.entries({lengths, options, parameters, conversions, values})) {
    for (const [name, call, message] of refusals) {
      it(`${group}: ${name}`, () => {
        let got: unknown = null;
        try {
          call();
        } catch (error) {
          got = error;
        }
        expect(got).to.be.instanceOf(Error);
        expect((got as Error).message).to.equal(message);
      });
    }
  }
});

describe('a mask that lives in a tensor', () => {
  const indices = (): tf.Tensor4D => tf.tensor4d([2, 2, 4, 4], [1, 1, 4, 1], 'int32');

  it('keeps the tensor of its owner, and tells its sizes', () => {
    const owned = indices();
    const mask = masks.fromStartEndRowIndices(owned, {causal: true, queryLength: 3});
    expect(mask.boundsTensor).to.equal(owned);
    expect(mask.bounds).to.equal(null);
    expect([mask.queryLength, mask.keyLength, mask.vectors]).to.deep.equal([3, 4, 1]);
    expect(String(mask)).to.equal(
      'fromStartEndRowIndices, 3 queries × 4 keys, causal, 1 vector, in a tensor: `await mask.download()` to see it',
    );
  });

  const onHost: [string, (mask: FlashMask) => unknown][] = [
    ['FlashMask.toDense', (mask) => mask.toDense()],
    ['FlashMask.sparsity', (mask) => mask.sparsity()],
    ['toSVG', (mask) => toSVG(mask)],
  ];
  for (const [name, call] of onHost) {
    it(`${name} names download()`, () => {
      const mask = masks.fromStartEndRowIndices(indices(), {causal: true});
      expect(() => call(mask)).to.throw(
        `${name}: the bounds must be on the host, got a mask whose bounds live in a tensor. ` +
          'Call it on the copy that `await mask.download()` gives.',
      );
    });
  }

  it('downloads a copy, and leaves the tensor be', async () => {
    const mask = masks.fromStartEndRowIndices(indices(), {causal: true, name: 'mine'});
    const copy = await mask.download();
    expect(copy.toDense()).to.deep.equal(masks.causalDocument([2, 2]).toDense());
    expect([copy.name, copy.causal, copy.boundsTensor]).to.deep.equal(['mine', true, null]);
    expect(mask.boundsTensor!.isDisposed).to.equal(false);
    expect(await copy.download()).to.equal(copy);
  });
});

describe('options that are null', () => {
  it('are none', () => {
    const none = null as never;
    expect(masks.causal(4, none).toDense()).to.deep.equal(masks.causal(4).toDense());
    expect(masks.document([4], none).bounds).to.deep.equal(masks.document([4]).bounds);
    expect(masks.fromSegmentIds([0], none).bounds).to.deep.equal(masks.fromSegmentIds([0]).bounds);
    expect(masks.fromDense([[1]], none).toString(none)).to.equal(masks.fromDense([[1]]).toString());
    expect(toSVG(masks.causal(4), none)).to.equal(toSVG(masks.causal(4)));
  });
});

describe('two vectors', () => {
  it('are read as causal says', () => {
    const indices = [[[[1, 2], [2, 2]]]]; // prettier-ignore
    const dense = (causal: boolean): number[] => [...masks.fromStartEndRowIndices(indices, {causal}).toDense()];
    expect(dense(true)).to.deep.equal([1, 0, 0, 1]);
    expect(dense(false)).to.deep.equal([0, 0, 0, 0]);
  });
});

describe('a mask is a value', () => {
  it('is made anew of its own fields, as of a copy that came from a worker', () => {
    const mask = masks.document([1, 3]);
    expect(new FlashMask(structuredClone(Object.assign({}, mask))).toDense()).to.deep.equal(mask.toDense());
  });

  it('cannot be assigned to, and does not see later writes to the array it was made of', () => {
    const bounds = Int32Array.of(2, 2);
    const mask = new FlashMask({...sizes, causal: true, vectors: 1, bounds});
    bounds.fill(0);
    expect([...mask.bounds!]).to.deep.equal([2, 2]);
    expect(() => Object.assign(mask, {causal: false})).to.throw(TypeError);
  });
});
