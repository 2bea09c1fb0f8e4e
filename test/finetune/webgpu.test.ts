/**
 * @file Fine-tuning on WebGPU: the matrix product for software adapters, and that a run holds the same memory after
 * every step.
 */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {toBatch} from '../../examples/finetune/data/batch.js';
import {packSamples} from '../../examples/finetune/data/packing.js';
import {IGNORED, type Sample} from '../../examples/finetune/data/sample.js';
import {normal, uniform} from '../../examples/finetune/random.js';
import {useSoftwareMatMul} from '../../examples/finetune/software_matmul.js';
import {AdamW} from '../../examples/finetune/train/adamw.js';
import type {AttentionKind} from '../../examples/finetune/train/attention.js';
import {costsOfStep} from '../../examples/finetune/train/comparison.js';
import {sftObjective} from '../../examples/finetune/train/objectives/sft.js';
import {TrainedModel} from '../../examples/finetune/train/trained_model.js';
import {Trainer} from '../../examples/finetune/train/trainer.js';
import {freshGlassllm} from '../../examples/finetune/weights/glassllm.js';
import {registerWebGPULayers} from '../../src/backends/webgpu/layers/register.js';
import {clearBoundsCache} from '../../src/entries/index.js';
import {useWebGPU} from '../../src/node_webgpu/use_webgpu.js';
import {skip} from '../support/skip.js';

describe('fine-tuning: WebGPU', function () {
  let restore = (): void => {};
  before(async function () {
    try {
      await useWebGPU();
    } catch (error) {
      skip(this, (error as Error).message);
    }
    registerWebGPULayers();
    await tf.setBackend('webgpu');
    restore = useSoftwareMatMul();
  });
  after(() => restore());

  describe('the matrix product for software adapters', () => {
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
    const files = freshGlassllm(['the cat sat on the mat. the dog sat on the log.'], 1);
    const next = uniform(8);
    const document = (id: number): Sample => {
      const tokens = Int32Array.from({length: 2 + Math.floor(next() * 30)}, () => 4 + Math.floor(next() * 20));
      const prompt = Math.floor(next() * tokens.length);
      return {
        id,
        tokens,
        positions: tokens.map((_, i) => i),
        labels: tokens.map((_, i) => (i < prompt ? IGNORED : tokens[(i + 1) % tokens.length])),
        parts: [tokens.length],
        answers: [],
      };
    };
    const rows = packSamples(
      Array.from({length: 40}, (_, id) => document(id)),
      128,
    );
    const make = async (kind: AttentionKind): Promise<Trainer> => {
      const model = await TrainedModel.load(files, {lora: null, rewardModel: false, seed: 0, keepActivations: true});
      return new Trainer(model, sftObjective, new AdamW(model.trainable), kind);
    };
    const [flash, dense] = [await make('flash'), await make('dense')];
    const held: string[] = [];
    for (let step = 0; step < 3; step++) {
      const batch = toBatch([rows[step]], 128);
      const a = await flash.step([batch], 1e-3);
      const b = await dense.step([batch], 1e-3);
      expect(Math.abs(a.loss / b.loss - 1)).to.be.below(1e-5);
      batch.dispose();
      clearBoundsCache();
      const {numTensors, numBytes} = tf.memory();
      held.push(`${numTensors} tensors, ${numBytes} bytes`);
    }
    expect(new Set(held).size).to.equal(1);
    const batch = toBatch([rows[0]], 128);
    const [costFlash, costDense] = await costsOfStep([flash, dense], [batch]);
    expect(costFlash.bytes).to.be.above(0);
    // The dense step holds 128 x 128 scores for four heads per layer, so it must take more memory.
    expect(costDense.bytes).to.be.above(costFlash.bytes);
    batch.dispose();
    flash.dispose();
    dense.dispose();
  });
});
