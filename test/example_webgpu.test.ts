/** @file The example on WebGPU: its matrix product for software adapters, and that training there leaks nothing. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {rowsOfStep, toBatch} from '../examples/lib/batches.js';
import {costsOfStep} from '../examples/lib/comparison.js';
import {type ModelConfig, freshWeights} from '../examples/lib/model.js';
import {packDocuments} from '../examples/lib/packing.js';
import {normal, uniform} from '../examples/lib/random.js';
import {useSoftwareMatMul} from '../examples/lib/software_matmul.js';
import {Trainer} from '../examples/lib/trainer.js';
import {clearBoundsCache} from '../src/index.js';
import {useWebGPU} from '../src/node-webgpu.js';

const MODEL: ModelConfig = {
  vocabSize: 60,
  width: 32,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  maxLength: 32,
  ropeBase: 10000,
  epsilon: 1e-6,
  initStd: 0.2,
};

describe('example: WebGPU', function () {
  before(async function () {
    try {
      await useWebGPU();
    } catch (error) {
      console.log(`      skipped: ${(error as Error).message}`);
      this.skip();
    }
    await tf.setBackend('webgpu');
  });

  describe('the matrix product for software adapters', () => {
    let restore: () => void;
    before(() => (restore = useSoftwareMatMul()));
    after(() => restore());

    const product = (a: number[][], b: number[][]): number[] =>
      a.flatMap((row) => b[0].map((_, j) => row.reduce((sum, value, k) => sum + value * b[k][j], 0)));
    const transposed = (m: number[][]): number[][] => m[0].map((_, j) => m.map((row) => row[j]));
    const matrix = (rows: number, columns: number, draw: () => number): number[][] =>
      Array.from({length: rows}, () => Array.from({length: columns}, () => Math.fround(draw())));

    for (const [m, k, n] of [
      [1, 1, 1],
      [7, 5, 3],
      [8, 8, 8],
      [9, 33, 17],
      [64, 341, 40],
      [1, 100, 65],
      [200, 3, 1],
    ]) {
      for (const [transposeA, transposeB] of [
        [false, false],
        [true, false],
        [false, true],
        [true, true],
      ]) {
        it(`[${m}, ${k}] x [${k}, ${n}]${transposeA ? ', A transposed' : ''}${transposeB ? ', B transposed' : ''}`, async () => {
          const draw = normal(m * 1000 + k * 10 + n);
          const [a, b] = [matrix(m, k, draw), matrix(k, n, draw)];
          const [left, right] = [transposeA ? transposed(a) : a, transposeB ? transposed(b) : b].map((x) =>
            tf.tensor2d(x),
          );
          const got = tf.matMul(left, right, transposeA, transposeB);
          expect(got.shape).to.deep.equal([m, n]);
          const values = await got.data();
          product(a, b).forEach((value, i) => expect(values[i]).to.be.closeTo(value, 1e-5 * Math.max(1, Math.sqrt(k))));
          tf.dispose([left, right, got]);
        });
      }
    }

    it('takes a batch of matrices, and one matrix for a whole batch', async () => {
      const draw = normal(4);
      const batch = Array.from({length: 6}, () => matrix(9, 4, draw));
      const single = matrix(4, 10, draw);
      const many = tf.tensor(batch).reshape([2, 3, 9, 4]);
      const one = tf.tensor(single).reshape([1, 1, 4, 10]);
      const got = tf.matMul(many, one);
      const back = tf.matMul(got, one, false, true);
      expect([got.shape, back.shape]).to.deep.equal([
        [2, 3, 9, 10],
        [2, 3, 9, 4],
      ]);
      const wanted = batch.map((each) => product(each, single));
      const values = await got.data();
      wanted.flat().forEach((value, i) => expect(values[i]).to.be.closeTo(value, 1e-5));
      const wantedBack = wanted.flatMap((flat) =>
        product(
          Array.from({length: 9}, (_, r) => flat.slice(r * 10, r * 10 + 10)),
          transposed(single),
        ),
      );
      const valuesBack = await back.data();
      wantedBack.forEach((value, i) => expect(valuesBack[i]).to.be.closeTo(value, 1e-4));
      tf.dispose([many, one, got, back]);
    });

    it('reads whole numbers', async () => {
      const got = tf.matMul(
        tf.oneHot(tf.tensor1d([1, 0], 'int32'), 2).cast('float32') as tf.Tensor2D,
        tf.tensor2d([
          [1.5, 2],
          [3, 4],
        ]),
      );
      expect(Array.from(await got.data())).to.deep.equal([3, 4, 1.5, 2]);
    });
  });

  it('trains the same with both attentions, and holds the same memory after every step', async () => {
    const next = uniform(8);
    const documents = Array.from({length: 40}, () => {
      const tokens = Array.from({length: 2 + Math.floor(next() * 30)}, () => 4 + Math.floor(next() * 56));
      return {tokens, promptLength: Math.floor(next() * tokens.length)};
    });
    const rows = packDocuments(documents, 128);
    const weights = freshWeights(MODEL, normal(1));
    const [flash, dense] = (['flash', 'dense'] as const).map((kind) => new Trainer(kind, MODEL, weights));
    const held: string[] = [];
    for (let step = 0; step < 8; step++) {
      const batch = toBatch(rowsOfStep(rows, 1, 1, step));
      const a = await flash.step(batch, 1e-3);
      const b = await dense.step(batch, 1e-3);
      expect(Math.abs(a.loss / b.loss - 1)).to.be.below(1e-5);
      batch.dispose();
      clearBoundsCache();
      const {numTensors, numBytes} = tf.memory();
      held.push(`${numTensors} tensors, ${numBytes} bytes`);
    }
    expect(new Set(held).size).to.equal(1);
    const batch = toBatch(rowsOfStep(rows, 1, 1, 0));
    const [costFlash, costDense] = await costsOfStep([flash, dense], batch);
    expect(costFlash.bytes).to.be.above(0);
    // Four heads of 128 x 128 scores: the dense step must hold more.
    expect(costDense.bytes).to.be.above(costFlash.bytes);
    batch.dispose();
    flash.dispose();
    dense.dispose();
  });
});
