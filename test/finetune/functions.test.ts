/** @file Training steps as TensorFlow functions: equal to eager ones in every order of models and rows, and no leak. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {randomModel} from '../../bench/finetune/models.js';
import {type Task, fillRow, typicalTexts} from '../../bench/finetune/rows.js';
import {type Batch, toBatch} from '../../examples/finetune/data/batch.js';
import {PROJECTIONS} from '../../examples/finetune/model/config.js';
import {AdamW} from '../../examples/finetune/train/adamw.js';
import {dpoObjective} from '../../examples/finetune/train/objectives/dpo.js';
import {rmObjective} from '../../examples/finetune/train/objectives/rm.js';
import {sftObjective} from '../../examples/finetune/train/objectives/sft.js';
import {adapterOffReference} from '../../examples/finetune/train/reference.js';
import {TrainedModel} from '../../examples/finetune/train/trained_model.js';
import {Trainer} from '../../examples/finetune/train/trainer.js';
import {clearBoundsCache} from '../../src/entries/index.js';
import {onFunctions} from '../../src/backends/tensorflow/traced/progress.js';
import {devices} from '../support/devices.js';

const tensorflow = devices.find(({name}) => name === 'tensorflow')!;
const LORA = {rank: 4, alpha: 8, dropout: 0.1, targetModules: PROJECTIONS, useRslora: false};
const RATE = 1e-3;

interface Options {
  eager?: boolean;
  keepActivations?: boolean;
}

async function trainerOf(task: Task, {eager = false, keepActivations = false}: Options): Promise<Trainer> {
  const lora = task === 'sft' ? null : LORA;
  const options = {lora, rewardModel: task === 'rm', seed: 5, keepActivations, eager};
  const model = await TrainedModel.load(randomModel('tiny'), options);
  const dpo = (): ReturnType<typeof dpoObjective> =>
    dpoObjective({beta: 0.1, labelSmoothing: 0}, adapterOffReference(model, 'flash'));
  const objective = task === 'dpo' ? dpo() : task === 'rm' ? rmObjective(0) : sftObjective;
  return new Trainer(model, objective, new AdamW(model.trainable, {eager}), 'flash', 3);
}

/** A row whose labels differ from those of other seeds, in number too. */
const batchOf = (task: Task, tokens: number, seed: number): Batch =>
  toBatch([fillRow(task, typicalTexts(task, tokens, seed), 512, seed)], tokens);

async function stepOf(trainer: Trainer, batches: Batch[]): Promise<[number, number]> {
  const {loss, gradNorm} = await trainer.step(batches, RATE);
  batches.forEach((batch) => batch.dispose());
  clearBoundsCache();
  return [loss, gradNorm];
}

(tensorflow.skip ? describe.skip : describe)('fine-tuning: steps as functions', () => {
  before(() => tensorflow.setup());

  /** Losses and gradient norms of models that take turns, on rows of two lengths, one batch or two a step. */
  async function turns(tasks: readonly Task[], options: Options): Promise<number[][]> {
    const trainers = await Promise.all(tasks.map((task) => trainerOf(task, options)));
    const seen: number[][] = [];
    for (let step = 0; step < 8; step++) {
      for (const [i, task] of tasks.entries()) {
        const tokens = [130, 260][step % 2];
        const batches = [step, step + 100].slice(0, 1 + i).map((seed) => batchOf(task, tokens, seed));
        seen.push(await stepOf(trainers[i], batches));
      }
    }
    trainers.forEach((trainer) => trainer.dispose());
    return seen;
  }

  for (const tasks of [
    ['sft', 'lora'],
    ['dpo', 'rm'],
  ] as const) {
    it(`equal eager ones: ${tasks.join(' and ')} take turns, with dropout, on rows of two lengths`, async () => {
      // Bounds that other tests have left.
      clearBoundsCache();
      const {numTensors} = tf.memory();
      let made = 0;
      const end = onFunctions((count) => (made = Math.max(made, count)));
      const functions = await turns(tasks, {});
      end();
      expect(made).to.be.above(16);
      expect(await turns(tasks, {eager: true})).to.deep.equal(functions);
      expect(await turns(tasks, {keepActivations: true})).to.deep.equal(functions);
      expect(tf.memory().numTensors).to.equal(numTensors);
    });
  }

  it('hold the same memory over 200 steps', async () => {
    const {binding} = tf.backend() as unknown as {binding: {getNumOfTensors(): number}};
    const trainer = await trainerOf('lora', {keepActivations: true});
    const held = new Set<string>();
    for (let step = 0; step < 200; step++) {
      await stepOf(trainer, [batchOf('lora', 130, step % 5)]);
      // The first steps record and compile.
      if (step > 4) held.add(`${tf.memory().numTensors} tensors of tfjs, ${binding.getNumOfTensors()} of TensorFlow`);
    }
    expect(held.size, [...held].join('; ')).to.equal(1);
    trainer.dispose();
  });
});
