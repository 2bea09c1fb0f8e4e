/** @file Bounds as tensors: `mask.toTensor()`, and the builders that make them on the device. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {FlashMask, flashMaskAttention, masks} from '../../src/entries/index.js';
import {onEachDevice} from '../support/devices.js';
import {randomInteger, seededRandom} from '../../src/mask/builders/random.js';

type Sees = (row: number, key: number) => boolean;

/** Compares what bounds show, for every row of a batch, with a rule on pairs. */
async function expectPairs(bounds: tf.Tensor4D, causal: boolean, queryLength: number, sees: Sees[]): Promise<void> {
  const [batch, heads, keyLength, vectors] = bounds.shape as [number, number, number, 0 | 1 | 2 | 4];
  expect([bounds.dtype, batch, heads]).to.deep.equal(['int32', sees.length, 1]);
  const host = Int32Array.from(await bounds.data());
  const mask = new FlashMask({causal, queryLength, keyLength, batch, vectors, bounds: host});
  for (let b = 0; b < batch; b++) {
    const wanted = Array.from({length: queryLength * keyLength}, (_, i) => {
      const [r, j] = [Math.floor(i / keyLength), i % keyLength];
      return sees[b](r, j) && (!causal || j <= r + keyLength - queryLength) ? 1 : 0;
    });
    expect([...mask.toDense(b)], `row ${b}`).to.deep.equal(wanted);
  }
}

/** Rows of tokens padded on the right, on the left, in the middle, nowhere, and everywhere. */
const TOKENS = [
  [5, 3, 8, 0, 0, 0, 0],
  [0, 0, 4, 4, 1, 9, 2],
  [0, 6, 0, 0, 7, 1, 0],
  [1, 1, 1, 1, 1, 1, 1],
  [0, 0, 0, 0, 0, 0, 0],
];

const drawIds = (length: number, seed: number): number[] => {
  const random = seededRandom(seed);
  return Array.from({length}, () => randomInteger(random, -1, 2));
};

/** Whether all tokens between two are of the same document. */
const sameRun =
  (ids: number[]): Sees =>
  (r, j) =>
    ids[r] >= 0 && ids.slice(Math.min(r, j), Math.max(r, j) + 1).every((id) => id === ids[r]);

onEachDevice((device) => {
  describe('bounds on the device', () => {
    for (const causal of [true, false]) {
      it(`masks.padding shows tokens to tokens${causal ? ', causally' : ''}`, async () => {
        const sees = TOKENS.map((tokens): Sees => {
          const places = tokens.flatMap((token, i) => (token > 0 ? [i] : []));
          const [first, last] = [places[0], places.at(-1)!];
          return (r, j) => tokens[j] > 0 && first <= r && r <= last;
        });
        for (const dtype of ['int32', 'float32', 'bool'] as const) {
          const values = dtype === 'bool' ? TOKENS.map((row) => row.map((token) => token > 0)) : TOKENS;
          const tokens = tf.tensor2d(values as number[][], [5, 7], dtype);
          await expectPairs(masks.padding(tokens, {causal}), causal, 7, sees);
        }
      });

      it(`masks.padding shows tokens to other queries${causal ? ', causally' : ''}`, async () => {
        const sees = TOKENS.map(
          (tokens): Sees =>
            (_, j) =>
              tokens[j] > 0,
        );
        const bounds = masks.padding(tf.tensor2d(TOKENS, undefined, 'int32'), {causal, crossAttention: true});
        await expectPairs(bounds, causal, 4, sees);
      });

      it(`masks.segments shows documents to themselves${causal ? ', causally' : ''}`, async () => {
        for (const length of [1, 2, 3, 8, 33]) {
          const ids = [drawIds(length, length), drawIds(length, 7 * length), Array<number>(length).fill(3)];
          const bounds = masks.segments(tf.tensor2d(ids, undefined, 'int32'), {causal});
          await expectPairs(bounds, causal, length, ids.map(sameRun));
        }
      });

      it(`masks.segments gives what masks.fromSegmentIds does${causal ? ', causally' : ''}`, async () => {
        const ids = [0, 0, 4, 4, 4, 1, -1, -1];
        const bounds = masks.segments(tf.tensor2d([ids]), {causal});
        expect([...(await bounds.data())]).to.deep.equal([...masks.fromSegmentIds(ids, {causal}).bounds!]);
      });
    }

    it('tensors of every form give what their masks give', async () => {
      const [q, k, v] = [0, 1, 2].map((seed) => tf.randomNormal([2, 8, 2, 4], 0, 1, 'float32', seed)) as tf.Tensor4D[];
      const forms = [
        masks.full(8),
        masks.causal(8),
        masks.causalDocument([[3, 5], [8]]),
        masks.qkSparse(8, [[2, 5]]),
        masks.document([[3, 5], [8]]),
        masks.globalSlidingWindow(8, 1, 2),
        masks.randomEviction(8, 3, {heads: 2, batch: 2}),
      ];
      for (const mask of forms) {
        const [tensor, {causal}] = [mask.toTensor(), mask];
        expect(tensor.shape, mask.name).to.deep.equal([mask.batch, mask.heads, 8, mask.vectors]);
        const difference = flashMaskAttention(q, k, v, tensor, {causal}).sub(flashMaskAttention(q, k, v, mask));
        expect((await difference.abs().max().data())[0], mask.name).to.equal(0);
      }
      expect(await device.hiddenErrors()).to.deep.equal([]);
    });

    it('toTensor() gives a tensor that is the caller’s', async () => {
      const {numTensors} = tf.memory();
      const tensor = tf.tensor4d([2, 2], [1, 1, 2, 1], 'int32');
      const mask = new FlashMask({causal: true, queryLength: 2, keyLength: 2, vectors: 1, boundsTensor: tensor});
      mask.toTensor().dispose();
      expect([...(await tensor.data())]).to.deep.equal([2, 2]);
      tensor.dispose();
      masks.document([1, 1]).toTensor().dispose();
      expect(tf.memory().numTensors).to.equal(numTensors);
    });

    it('the op refuses two vectors whose form nobody says', () => {
      const x = tf.ones([1, 3, 1, 2]);
      const bounds = masks.segments(tf.zeros([1, 3], 'int32'));
      expect(() => flashMaskAttention(x, x, x, bounds)).to.throw(/with two vectors causal must be given, got none/);
    });
  });
});
