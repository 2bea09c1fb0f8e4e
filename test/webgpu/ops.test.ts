/**
 * @file All of tfjs on the device of createWebGPUBackend(), which has features that tfjs does not request: compares a
 * sample of ops and their gradients with tfjs's own device. On a GPU the two devices differ in float16, subgroups and
 * larger limits.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import '../../src/entries/index.js';
import {createWebGPUBackend} from '../../src/entries/webgpu.js';
import {devices} from '../support/devices.js';
import {full} from '../support/full.js';
import {integer, normals, seeded} from '../support/random.js';

/** Without FLASHMASK_FULL one op in four runs, because on a software adapter the two devices hardly differ. */
const SAMPLE = 4;

const webgpu = devices.find(({name}) => name === 'webgpu')!;
const STOCK = 'webgpu';
const FULL = 'webgpu-of-this-library';

/** An input, created on each backend with the same numbers. */
const x = <R extends tf.Rank>(shape: tf.ShapeMap[R], seed = 1): tf.Tensor<R> =>
  tf.tensor(normals(seeded(seed), tf.util.sizeFromShape(shape as number[])), shape);
const positive = <R extends tf.Rank>(shape: tf.ShapeMap[R]): tf.Tensor<R> => tf.add(tf.abs(x(shape)), 0.5);
const ints = <R extends tf.Rank>(shape: tf.ShapeMap[R], below: number): tf.Tensor<R> => {
  const random = seeded(7);
  const size = tf.util.sizeFromShape(shape as number[]);
  return tf.tensor(
    Int32Array.from({length: size}, () => integer(random, 0, below)),
    shape,
    'int32',
  );
};
const matrix = (rows = 33, columns = 40, seed = 1): tf.Tensor2D => x<tf.Rank.R2>([rows, columns], seed);
const image = (): tf.Tensor4D => x<tf.Rank.R4>([2, 9, 11, 4]);
const filter = (): tf.Tensor4D => x<tf.Rank.R4>([3, 3, 4, 8], 2);

/** Twenty boxes [y1, x1, y2, x2]. */
const boxes = (): tf.Tensor2D => {
  const corner = x<tf.Rank.R2>([20, 2]);
  return tf.concat([corner, tf.add<tf.Tensor2D>(corner, positive([20, 2]))], 1);
};

/** Mean, variance and offset of four channels. */
const statistics = (): [tf.Tensor1D, tf.Tensor1D, tf.Tensor1D] => [x([4], 2), positive([4]), x([4], 3)];

/** The gradient of a weighted sum of f's result, in which no two elements have the same weight. */
const gradient = <T extends tf.Tensor>(f: (t: T) => tf.Tensor, at: T): tf.Tensor =>
  tf.grad((t) => {
    const y = f(t as T);
    return tf.sum(tf.mul(y, x(y.shape, 9)));
  })(at);

type Outcome = tf.Tensor | tf.Tensor[] | Promise<tf.Tensor | tf.Tensor[]>;

const ops: Record<string, () => Outcome> = {
  'add, broadcast': () => tf.add(matrix(), x([40], 3)),
  'unary functions': () =>
    [tf.exp, tf.sin, tf.tanh, tf.sigmoid, tf.relu, tf.erf, tf.softplus, tf.round, tf.sign, tf.elu].map((f) =>
      f(matrix()),
    ),
  'functions of positive numbers': () =>
    [tf.log, tf.sqrt, tf.rsqrt, tf.reciprocal, tf.log1p].map((f) => f(positive([300]))),
  'pow, atan2, floorDiv, mod': () =>
    [tf.pow, tf.atan2, tf.floorDiv, tf.mod].map((f) => f(positive([300]), x([300], 2).abs().add(1))),
  'comparisons and logic': () => {
    const [a, b] = [tf.greater(matrix(), 0), tf.lessEqual(matrix(), 0.5)];
    return [a, b, tf.logicalAnd(a, b), tf.logicalNot(a), tf.any(a, 1), tf.all(tf.greater(matrix(), -1.5), 1)];
  },
  'where, clipByValue': () => [
    tf.where(tf.greater(matrix(), 0), matrix(), tf.zerosLike(matrix())),
    tf.clipByValue(matrix(), -1, 0.5),
  ],
  'cast to int32 and bool': () => [tf.cast(tf.mul(matrix(), 10), 'int32'), tf.cast(matrix(), 'bool')],
  'matMul, odd sizes': () => tf.matMul(matrix(33, 40), matrix(40, 65, 2)),
  'matMul, multiples of its tiles': () => tf.matMul(matrix(64, 128), matrix(128, 64, 2)),
  'matMul, transposed': () => tf.matMul(matrix(40, 33), matrix(65, 40, 2), true, true),
  'matMul, batches': () => tf.matMul(x([3, 5, 7]), x([3, 7, 9], 2)),
  'matMul, one row': () => tf.matMul(matrix(1, 300), matrix(300, 50, 2)),
  'fused matMul': () =>
    tf.fused.matMul({a: matrix(33, 40), b: matrix(40, 16, 2), bias: x([16], 3), activation: 'relu'}),
  einsum: () => tf.einsum('bqhd,bkhd->bhqk', x([2, 9, 3, 8]), x([2, 7, 3, 8], 2)),
  'outerProduct, dot': () => [tf.outerProduct(x([30]), x([20], 2)), tf.dot(x([300]), x([300], 2))],
  'conv2d, same': () => tf.conv2d(image(), filter(), 1, 'same'),
  'conv2d, strides and 1 x 1': () => [
    tf.conv2d(image(), filter(), [2, 2], 'valid'),
    tf.conv2d(image(), x([1, 1, 4, 16], 2), 1, 'same'),
  ],
  'fused conv2d': () =>
    tf.fused.conv2d({
      x: image(),
      filter: filter(),
      strides: 1,
      pad: 'same',
      bias: x<tf.Rank.R1>([8], 3),
      activation: 'relu',
    }),
  'depthwise and separable conv2d': () => [
    tf.depthwiseConv2d(image(), x([3, 3, 4, 1], 2), 1, 'same'),
    tf.separableConv2d(image(), x([3, 3, 4, 1], 2), x([1, 1, 4, 6], 3), 1, 'same'),
  ],
  conv2dTranspose: () => tf.conv2dTranspose(image(), x([3, 3, 6, 4], 2), [2, 18, 22, 6], 2, 'same'),
  'conv1d, conv3d': () => [
    tf.conv1d(x<tf.Rank.R3>([2, 20, 4]), x([3, 4, 6], 2), 1, 'same'),
    tf.conv3d(x<tf.Rank.R5>([1, 5, 6, 7, 2]), x([2, 2, 2, 2, 3], 2), 1, 'same'),
  ],
  'maxPool, avgPool': () => [tf.maxPool(image(), 3, 2, 'same'), tf.avgPool(image(), 3, 2, 'same')],
  softmax: () => [tf.softmax(matrix()), tf.logSoftmax(matrix())],
  'sum, mean': () => [tf.sum(matrix()), tf.sum(matrix(), 0), tf.mean(matrix(), 1), tf.mean(x([3, 4, 5]), [0, 2])],
  'reductions of many elements': () => [tf.sum(x([70000])), tf.max(x([70000])), tf.mean(x([2, 33000]), 1)],
  'max, min, prod': () => [tf.max(matrix(), 1), tf.min(matrix(), 0), tf.prod(tf.mul(matrix(9, 6), 0.5), 1)],
  'argMax, argMin': () => [tf.argMax(matrix(), 1), tf.argMin(matrix(), 0)],
  'logSumExp, norm, moments': () => [
    tf.logSumExp(matrix(), 1),
    tf.norm(matrix(), 2, 0),
    tf.moments(matrix(), 1).variance,
  ],
  'cumsum, cumprod': () => [tf.cumsum(matrix(), 1), tf.cumprod(tf.mul(matrix(9, 6), 0.5), 1, true)],
  'gather, gatherND': () => [
    tf.gather(matrix(), ints([20], 33)),
    tf.gather(matrix(), ints([5], 40), 1),
    tf.gatherND(matrix(), ints([12, 2], 33)),
  ],
  'scatterND, tensorScatterUpdate': () => [
    tf.scatterND(tf.tensor2d([[4], [1], [7]], [3, 1], 'int32'), matrix(3, 5), [9, 5]),
    tf.tensorScatterUpdate(matrix(9, 5), tf.tensor2d([[4], [1]], [2, 1], 'int32'), matrix(2, 5, 2)),
  ],
  unsortedSegmentSum: () => tf.unsortedSegmentSum(matrix(), ints<tf.Rank.R1>([33], 6), 6),
  transpose: () => [tf.transpose(matrix()), tf.transpose(x([3, 4, 5, 6]), [2, 0, 3, 1])],
  'slice, stridedSlice, reverse': () => [
    tf.slice(matrix(), [3, 5], [20, 11]),
    tf.stridedSlice(matrix(), [1, 30], [30, 2], [3, -4]),
    tf.reverse(matrix(), 1),
  ],
  'concat, stack, split, unstack': () => [
    tf.concat([matrix(), matrix(5, 40, 2)]),
    tf.concat([matrix(), matrix(33, 3, 2)], 1),
    tf.stack([matrix(), matrix()], 1),
    ...tf.split(matrix(), [10, 23]),
    tf.unstack(matrix(), 1)[7],
  ],
  'pad, mirrorPad, tile': () => [
    tf.pad(
      matrix(),
      [
        [1, 2],
        [0, 3],
      ],
      5,
    ),
    tf.mirrorPad(
      matrix(),
      [
        [1, 2],
        [2, 3],
      ],
      'reflect',
    ),
    tf.tile(matrix(), [2, 3]),
  ],
  'oneHot, range, linspace, fill': () => [
    tf.oneHot(ints<tf.Rank.R1>([20], 9), 9),
    tf.range(0, 30, 0.7),
    tf.linspace(-1, 1, 17),
    tf.fill([5, 6], 2.5),
  ],
  'spaceToBatchND, depthToSpace': () => [
    tf.spaceToBatchND(
      x([1, 4, 6, 2]),
      [2, 3],
      [
        [0, 0],
        [0, 0],
      ],
    ),
    tf.depthToSpace(x<tf.Rank.R4>([1, 3, 4, 8]), 2),
  ],
  topk: () => Object.values(tf.topk(matrix(), 7)) as tf.Tensor[],
  'searchSorted, bincount': () => [
    tf.searchSorted(tf.range(0, 30), tf.mul(positive<tf.Rank.R1>([20]), 5)),
    tf.bincount(ints<tf.Rank.R1>([50], 9), x<tf.Rank.R1>([50]), 9),
  ],
  batchNorm: () => tf.batchNorm(image(), ...statistics(), x<tf.Rank.R1>([4], 4)),
  localResponseNormalization: () => tf.localResponseNormalization(image()),
  'resize, crop and flip of images': () => [
    tf.image.resizeBilinear(image(), [5, 20]),
    tf.image.resizeNearestNeighbor(image(), [20, 5]),
    tf.image.cropAndResize(image(), tf.tensor2d([[0.1, 0.2, 0.8, 0.9]]), tf.tensor1d([0], 'int32'), [6, 7]),
    tf.image.flipLeftRight(image()),
  ],
  'nonMaxSuppression, on the CPU': () => tf.image.nonMaxSuppressionAsync(boxes(), tf.abs(x<tf.Rank.R1>([20], 2)), 8),
  'fft, ifft, complex': () => {
    const signal = tf.complex(matrix(4, 32), matrix(4, 32, 2));
    const spectrum = tf.spectral.fft(signal);
    const back = tf.spectral.ifft(spectrum);
    return [tf.real(spectrum), tf.imag(spectrum), tf.real(back), tf.abs(spectrum), tf.spectral.irfft(spectrum)];
  },
  'whereAsync, booleanMaskAsync': async () => [
    await tf.whereAsync(tf.greater(matrix(), 0)),
    await tf.booleanMaskAsync(matrix(), tf.greater(x<tf.Rank.R1>([33], 2), 0)),
  ],
  'multinomial and dropout of a seed': () => [
    tf.multinomial(matrix(2, 5), 12, 3),
    tf.dropout(matrix(), 0.4, undefined, 5),
  ],
  'gradient of matMul': () => gradient((a) => tf.matMul(a, matrix(40, 16, 2)), matrix()),
  'gradient of softmax': () => gradient((a: tf.Tensor2D) => tf.softmax(a), matrix()),
  'gradient of conv2d, input and filter': () => [
    gradient((a: tf.Tensor4D) => tf.conv2d(a, filter(), 1, 'same'), image()),
    gradient((f: tf.Tensor4D) => tf.conv2d(image(), f, 1, 'same'), filter()),
  ],
  'gradient of depthwiseConv2d': () => [
    gradient((a: tf.Tensor4D) => tf.depthwiseConv2d(a, x([3, 3, 4, 1], 2), 1, 'same'), image()),
    gradient((f: tf.Tensor4D) => tf.depthwiseConv2d(image(), f, 1, 'same'), x([3, 3, 4, 1], 2)),
  ],
  'gradient of pools': () => [
    gradient((a: tf.Tensor4D) => tf.maxPool(a, 3, 2, 'same'), image()),
    gradient((a: tf.Tensor4D) => tf.avgPool(a, 3, 2, 'same'), image()),
  ],
  'gradient of batchNorm': () =>
    gradient((a: tf.Tensor4D) => tf.batchNorm(a, ...statistics(), x<tf.Rank.R1>([4], 4)), image()),
  'gradient of gather': () => gradient((a) => tf.gather(a, ints([20], 33)), matrix()),
  'gradient of resizeBilinear': () => gradient((a: tf.Tensor4D) => tf.image.resizeBilinear(a, [5, 20]), image()),
  'gradient of a transposed batch of matMul': () =>
    gradient((a) => tf.transpose(tf.matMul(a, x([3, 7, 9], 2)), [1, 2, 0]), x<tf.Rank.R3>([3, 5, 7])),
  'gradient of elementwise functions': () =>
    gradient((a) => tf.mul(tf.tanh(a), tf.sigmoid(tf.elu(tf.add(a, 0.1)))), matrix()),
  'a step of Adam': () => {
    const weights = tf.variable(matrix(20, 10));
    tf.train.adam(0.1).minimize(() => tf.mean(tf.square(tf.matMul(matrix(30, 20, 2), weights))));
    return weights;
  },
};

interface Read {
  shape: number[];
  dtype: string;
  values: ArrayLike<number>;
}

async function run(backend: string, op: () => Outcome): Promise<Read[]> {
  await tf.setBackend(backend);
  tf.engine().startScope();
  try {
    const outcome = await op();
    const tensors = Array.isArray(outcome) ? outcome : [outcome];
    return await Promise.all(
      tensors.map(async (t) => ({shape: t.shape, dtype: t.dtype, values: (await t.data()) as ArrayLike<number>})),
    );
  } finally {
    tf.engine().endScope();
    await tf.setBackend(STOCK);
  }
}

/** Largest difference over the largest value; NaN if only one of two elements is NaN. */
function difference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  const finite = Array.from(expected).filter(Number.isFinite);
  const largest = finite.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-30);
  return Array.from(expected).reduce((most, value, i) => {
    const error = Object.is(value, actual[i]) ? 0 : Math.abs(actual[i] - value);
    return Math.max(most, error / largest);
  }, 0);
}

(webgpu.skip ? describe.skip : describe)(
  `ops of tfjs on the full device${webgpu.skip ? ` (${webgpu.skip})` : ''}`,
  () => {
    const swallowed: string[] = [];

    before(async () => {
      await webgpu.setup();
      const {device} = await createWebGPUBackend({name: FULL, setBackend: false});
      device.addEventListener('uncapturederror', ({error}) => swallowed.push(error.message));
    });

    after(() => tf.removeBackend(FULL));

    it('has every kernel of tfjs', () => {
      const names = (backend: string): string[] => tf.getKernelsForBackend(backend).map(({kernelName}) => kernelName);
      expect(names(FULL)).to.have.members(names(STOCK));
      expect(names(FULL)).to.have.length.above(100);
    });

    for (const [name, op] of Object.entries(ops).filter((_, i) => full || i % SAMPLE === 0)) {
      it(name, async () => {
        const expected = await run(STOCK, op);
        const actual = await run(FULL, op);
        expect(actual).to.have.length(expected.length);
        actual.forEach(({shape, dtype, values}, i) => {
          expect({shape, dtype}).to.deep.equal({shape: expected[i].shape, dtype: expected[i].dtype});
          expect(difference(values, expected[i].values), `result ${i}`).to.be.at.most(1e-5);
          expect(Array.from(values).some(Boolean), `result ${i} is not all zeros`).to.equal(true);
        });
        expect(swallowed.splice(0)).to.deep.equal([]);
      });
    }

    it('notices a difference', () => {
      expect(difference([1, 2], [1, 2.001])).to.be.above(1e-4);
      expect(difference([NaN, 2], [1, 2])).to.be.NaN;
      expect(difference([NaN, -Infinity], [NaN, -Infinity])).to.equal(0);
    });
  },
);
