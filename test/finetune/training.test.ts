/**
 * @file Training steps in one process, on every device: packed rows give the same as each sample alone, several batches
 * the same as one, flashMaskAttention the same as dense attention; dropout, frozen weights, memory.
 */
import {mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {type Batch, toBatch} from '../../examples/finetune/data/batch.js';
import {encodeComparison, encodeConversation} from '../../examples/finetune/data/encode.js';
import type {Row, Sample} from '../../examples/finetune/data/sample.js';
import type {HostTensor} from '../../examples/finetune/host_tensor.js';
import {nvidiaSmi} from '../../examples/finetune/nvidia_smi.js';
import {PROJECTIONS, parseConfig, weightShapes} from '../../examples/finetune/model/config.js';
import type {LoraOptions} from '../../examples/finetune/model/lora.js';
import {normal} from '../../examples/finetune/random.js';
import {chooseActivations, keptBytes} from '../../examples/finetune/train/activations.js';
import {AdamW} from '../../examples/finetune/train/adamw.js';
import {type AttentionKind, attentionOf} from '../../examples/finetune/train/attention.js';
import {batchLogProbs, dpoObjective} from '../../examples/finetune/train/objectives/dpo.js';
import type {Objective} from '../../examples/finetune/train/objectives/objective.js';
import {rmObjective} from '../../examples/finetune/train/objectives/rm.js';
import {labelledRows} from '../../examples/finetune/train/label_log_probs.js';
import {sftObjective} from '../../examples/finetune/train/objectives/sft.js';
import {adapterOffReference} from '../../examples/finetune/train/reference.js';
import {tokenLogProbs} from '../../examples/finetune/train/token_log_probs.js';
import {TrainedModel} from '../../examples/finetune/train/trained_model.js';
import {Trainer} from '../../examples/finetune/train/trainer.js';
import type {ModelFiles} from '../../examples/finetune/weights/model_files.js';
import {clearBoundsCache} from '../../src/entries/index.js';
import {onEachDevice, slackOf} from '../support/devices.js';
import {useFinetuneMatMul} from '../support/finetune_device.js';
import {within} from '../support/in_process.js';
import {TINY_CONFIG} from '../support/finetune_tiny.js';
import {tinyTokenizer} from '../support/tiny_tokenizer.js';

const ROW = 128;
/** Shorter than ROW, but longer than any shared comparison; PACKED_ROW holds the two packed conversations. */
const COMPARISON_ROW = 64;
const PACKED_ROW = 96;
const LORA: LoraOptions = {rank: 4, alpha: 8, dropout: 0, targetModules: [...PROJECTIONS], useRslora: false};
const LIMITS = {maxTokens: ROW, tooLong: 'drop'} as const;

const tokenizer = tinyTokenizer();

/** A model with weights drawn from a seed. */
function tinyFiles(fields: Record<string, unknown> = {}): ModelFiles {
  const configJson = {
    ...TINY_CONFIG,
    num_hidden_layers: 1,
    hidden_size: 32,
    intermediate_size: 48,
    head_dim: 8,
    ...fields,
  };
  const config = parseConfig(configJson, 'tiny');
  const next = normal(3);
  const weights = new Map<string, HostTensor>();
  for (const [name, shape] of weightShapes(config)) {
    const length = shape.reduce((product, size) => product * size, 1);
    weights.set(name, {shape, data: Float32Array.from({length}, () => (shape.length === 1 ? 1 : 0.2 * next()))});
  }
  return {
    origin: 'tiny',
    config,
    configJson,
    names: new Set(weights.keys()),
    read: (name) => Promise.resolve(weights.get(name)!),
    tokenizerJson: {},
    tokenizerConfig: {},
    close: () => Promise.resolve(),
  };
}

function sampleOf(encoding: ReturnType<typeof encodeConversation>): Sample {
  expect(encoding).to.have.property('sample');
  return (encoding as {sample: Sample}).sample;
}

const conversations = ['Hi', 'What is it?', 'So'].map((text, id) =>
  sampleOf(
    encodeConversation(
      id,
      [
        {role: 'system', content: '-'},
        {role: 'user', content: text},
        {role: 'assistant', content: `${text}! `.repeat(id + 1)},
      ],
      tokenizer,
      LIMITS,
    ),
  ),
);

function comparison(id: number, objective: 'dpo' | 'rm', layout: 'shared' | 'separate', maxTokens = ROW): Sample {
  const prompt = [
    {role: 'system', content: '-'},
    {role: 'user', content: 'ab?'.slice(id)},
  ];
  const answers = ['yes', 'no, no', 'x'].slice(0, 2 + id);
  const options = {maxTokens, tooLong: 'drop', objective, layout} as const;
  return sampleOf(encodeComparison(id, {prompt, answers}, tokenizer, options));
}

const model = (lora: LoraOptions | null, rewardModel = false, keepActivations = false): Promise<TrainedModel> =>
  TrainedModel.load(tinyFiles(), {lora, rewardModel, seed: 5, keepActivations});

/** Makes adapters change the output: a fresh B is zero. */
async function stir({adapter}: TrainedModel): Promise<void> {
  const next = normal(9);
  for (const variable of adapter!.weights.values()) {
    const values = Float32Array.from({length: variable.size}, () => 0.1 * next());
    tf.tidy(() => variable.assign(tf.tensor(values, variable.shape)));
  }
}

/** Log-probability of every label of a batch, in order. */
async function labelLogProbs(trained: TrainedModel, batch: Batch, kind: AttentionKind = 'flash'): Promise<number[]> {
  const {attend, tensors} = attentionOf(kind, batch, trained.config);
  const rows = labelledRows(batch.labels);
  const targets = rows.map((row) => batch.labels[row]);
  const values = tf.tidy(() => tokenLogProbs(trained.hidden(batch, attend), trained.network.head, rows, targets));
  const data = Array.from(await values.data());
  tf.dispose([values, ...tensors]);
  return data;
}

function expectClose(actual: readonly number[], wanted: readonly number[], tolerance: number): void {
  expect(actual).to.have.length(wanted.length);
  actual.forEach((value, i) => expect(value).to.be.closeTo(wanted[i], tolerance));
}

const asRow = (samples: Sample[]): Row => ({samples});
/** One sample in a row longer than any sample, so that the row ends in padding. */
const alone = (sample: Sample): Batch => toBatch([asRow([sample])], ROW);

describe('fine-tuning: training steps', () => {
  onEachDevice((device) => {
    const tolerance = 1e-4 * slackOf(device);
    useFinetuneMatMul(device);
    // The bounds of a mask stay on the device as long as the mask.
    afterEach(() => clearBoundsCache());

    it('gives every token of a packed document the log-probability that it has alone', async () => {
      const trained = await model(LORA);
      await stir(trained);
      const packed = toBatch([asRow(conversations.slice(0, 2)), asRow(conversations.slice(2))], ROW);
      const got = await labelLogProbs(trained, packed);
      const wanted: number[] = [];
      for (const sample of conversations) {
        const batch = alone(sample);
        wanted.push(...(await labelLogProbs(trained, batch)));
        batch.dispose();
      }
      expectClose(got, wanted, tolerance);
      expectClose(await labelLogProbs(trained, packed, 'dense'), wanted, tolerance);
      packed.dispose();
      trained.dispose();
    });

    it('gives every token of an answer the same log-probability behind a shared question as behind its own', async () => {
      const trained = await model(LORA);
      await stir(trained);
      const samples = (layout: 'shared' | 'separate'): Sample[] =>
        [0, 1].map((id) => comparison(id, 'dpo', layout, 192));
      const shared = toBatch([asRow(samples('shared'))], 192);
      const separate = toBatch(
        samples('separate').map((sample) => asRow([sample])),
        192,
      );
      expect(shared.tokens).to.be.below(0.7 * separate.tokens);
      expectClose(await labelLogProbs(trained, shared), await labelLogProbs(trained, separate), tolerance);
      for (const batch of [shared, separate]) batch.dispose();
      trained.dispose();
    });

    it('keeps answers of a model with a short sliding window apart, and sums their log-probabilities', async () => {
      const files = tinyFiles({model_type: 'mistral', architectures: ['MistralForCausalLM'], sliding_window: 12});
      const trained = await TrainedModel.load(files, {lora: LORA, rewardModel: false, seed: 5});
      const batch = toBatch([asRow([comparison(1, 'dpo', 'separate', 192)])], 192);
      const {attend} = attentionOf('flash', batch, trained.config);
      const sums = tf.tidy(() => batchLogProbs(trained, batch, trained.hidden(batch, attend)));
      const single = await labelLogProbs(trained, batch, 'dense');
      let before = 0;
      const wanted = batch.answers.map(({start, end}) => {
        const part = single.slice(before, (before += end - start));
        return part.reduce((sum, value) => sum + value, 0);
      });
      expectClose(Array.from(await sums.data()), wanted, 10 * tolerance);
      sums.dispose();
      batch.dispose();
      trained.dispose();
    });

    const [short, long, middle] = conversations;
    const packed = [asRow([short, middle]), asRow([long])];
    const compared = (objective: 'dpo' | 'rm'): Row[] =>
      [0, 1].map((id) => asRow([comparison(id, objective, 'shared', COMPARISON_ROW)]));
    const objectives: Record<
      string,
      {lora: LoraOptions | null; make: (trained: TrainedModel) => Objective; rows: Row[]; length: number}
    > = {
      'sft of all weights': {
        lora: null,
        make: () => sftObjective,
        rows: packed,
        length: PACKED_ROW,
      },
      'sft of adapters with dropout': {
        lora: {...LORA, dropout: 0.2},
        make: () => sftObjective,
        rows: packed,
        length: PACKED_ROW,
      },
      dpo: {
        lora: LORA,
        make: (trained) => dpoObjective({beta: 0.3, labelSmoothing: 0.1}, adapterOffReference(trained, 'flash')),
        rows: compared('dpo'),
        length: COMPARISON_ROW,
      },
      rm: {
        lora: LORA,
        make: () => rmObjective(0.01),
        rows: compared('rm'),
        length: COMPARISON_ROW,
      },
    };

    for (const [name, {lora, make, rows, length}] of Object.entries(objectives)) {
      /** Losses and gradient norms of the first steps. */
      const train = async (steps: number, batches: Batch[], kind: AttentionKind = 'flash', keep = false) => {
        const trained = await model(lora, name === 'rm', keep);
        const trainer = new Trainer(trained, make(trained), new AdamW(trained.trainable), kind, 11);
        const seen: number[] = [];
        const tensors: number[] = [];
        for (let step = 0; step < steps; step++) {
          const {loss, gradNorm} = await trainer.step(batches, 1e-3);
          seen.push(loss, gradNorm);
          tensors.push(tf.memory().numTensors);
        }
        // The first step also creates the dropout tables.
        tensors.slice(2).forEach((count) => expect(count).to.equal(tensors[1]));
        trainer.dispose();
        return seen;
      };

      it(`${name}: learns, the same with dense attention, with blocks kept, and in two batches as in one`, async () => {
        const before = tf.memory().numTensors;
        const one = [toBatch(rows, length)];
        const flash = await train(3, one);
        expect(flash[4]).to.be.below(flash[0]);
        // The second step shows that the first one changed the weights in the same way.
        const firstTwo = flash.slice(0, 4);
        expectClose(await train(2, one, 'dense'), firstTwo, 10 * tolerance);
        // A GPU may multiply by another algorithm in a function.
        const kept = await train(2, one, 'flash', true);
        if (device.name === 'tensorflow-gpu') expectClose(kept, firstTwo, 10 * tolerance);
        else expect(kept).to.deep.equal(firstTwo);
        if (lora?.dropout !== 0.2) {
          const two = rows.map((row) => toBatch([row], length));
          expectClose(await train(2, two), firstTwo, 10 * tolerance);
          two.forEach((batch) => batch.dispose());
        }
        one.forEach((batch) => batch.dispose());
        expect(await device.hiddenErrors()).to.deep.equal([]);
        clearBoundsCache();
        expect(tf.memory().numTensors).to.equal(before);
      });
    }

    if (device.name === 'tensorflow' || device.name === 'cpu') {
      const functions = device.name === 'tensorflow';
      const tokens = functions ? 512 : PACKED_ROW;
      it('keeps at most what is estimated, and not far less', async () => {
        for (const lora of [null, LORA, {...LORA, dropout: 0.2}]) {
          for (const eager of functions ? [false, true] : [true]) {
            const trained = await TrainedModel.load(tinyFiles(), {
              ...{lora, rewardModel: false, seed: 5, keepActivations: true, eager},
            });
            const batch = toBatch(packed, tokens);
            let held = 0;
            // The third call is that of functions.
            for (let i = 0; i < (eager ? 1 : 3); i++) {
              trained.adapter?.setDropout(1);
              const {attend, tensors} = attentionOf('flash', batch, trained.config);
              const before = tf.memory().numBytes;
              const loss = (): tf.Scalar => {
                const hidden = trained.hidden(batch, attend);
                held = tf.memory().numBytes - before;
                return hidden.sum();
              };
              tf.dispose([tf.variableGrads(loss, [...trained.trainable.values()]), tensors] as tf.TensorContainer);
            }
            expect(held / keptBytes(trained, 2 * tokens)).to.be.within(0.5, 1.1);
            batch.dispose();
            trained.dispose();
          }
        }
      });
    }

    it('switches adapters off for the reference, and dropout off for an evaluation', async () => {
      const trained = await model({...LORA, dropout: 0.5});
      await stir(trained);
      const plain = await model(null);
      const batch = toBatch([asRow([comparison(0, 'dpo', 'shared')])], ROW);
      const reference = await adapterOffReference(trained, 'flash')(batch);
      const {attend} = attentionOf('flash', batch, plain.config);
      const wanted = tf.tidy(() => batchLogProbs(plain, batch, plain.hidden(batch, attend)));
      expectClose(Array.from(await reference.data()), Array.from(await wanted.data()), 10 * tolerance);

      const document = alone(conversations[2]);
      const trainer = new Trainer(trained, sftObjective, new AdamW(trained.trainable), 'flash', 1);
      const evaluated = await trainer.evaluate([document]);
      const [trainingLoss] = [(await trainer.step([document], 0)).loss];
      expect(Math.abs(trainingLoss - evaluated)).to.be.above(0.01);
      expect(await trainer.evaluate([document])).to.equal(evaluated);
      for (const each of [batch, document]) each.dispose();
      tf.dispose([reference, wanted]);
      trainer.dispose();
      plain.dispose();
    });
  });

  it('keeps activations where they take half of what is free, beside the optimizer', async () => {
    await tf.setBackend('cpu');
    const trained = await model(LORA);
    const size = [...trained.trainable.values()].reduce((sum, weight) => sum + weight.size, 0);
    const enough = 2 * keptBytes(trained, 100) + 16 * size;
    expect(chooseActivations(trained, 100, enough).keep).to.equal(true);
    const short = chooseActivations(trained, 100, enough - 8);
    expect(short.keep).to.equal(false);
    expect(short.why).to.match(/^they take up to 0\.\d{3} GB of 0\.\d{3} GB that are free$/);
    expect(chooseActivations(trained, 100, 0).why).to.match(/of 0\.000 GB that are free/);
    expect(chooseActivations(trained, 1, null)).to.deep.equal({
      keep: false,
      why: 'the device does not tell its free memory',
    });
    trained.dispose();
  });

  it('asks nvidia-smi for every GPU or for the one that it sees, and gets nothing without it', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'flashmask-nvidia-'));
    const ask = (CUDA_VISIBLE_DEVICES?: string): Promise<string[]> =>
      within({env: {PATH: folder, CUDA_VISIBLE_DEVICES}}, () => Promise.resolve(nvidiaSmi('memory.free')));
    expect(await ask()).to.deep.equal([]);
    const program =
      '#!/bin/sh\n[ "$1 $2" = "--query-gpu=memory.free --format=csv,noheader,nounits" ] && echo 81000$3 && echo 79000';
    writeFileSync(join(folder, 'nvidia-smi'), program, {mode: 0o755});
    for (const several of [undefined, '0,1', '-1']) expect(await ask(several)).to.deep.equal(['81000', '79000']);
    expect(await ask('1')).to.deep.equal(['81000--id=1', '79000']);
    rmSync(folder, {recursive: true});
  });

  it('drops the stated part of the inputs, every seed another', async () => {
    await tf.setBackend('cpu');
    const {adapter, network, ...trained} = await model({...LORA, dropout: 0.25});
    const projection = 'model.layers.0.mlp.down_proj';
    // With all ones in A and B, the update counts the kept inputs.
    for (const variable of adapter!.weights.values()) variable.assign(tf.ones(variable.shape));
    const kept = async (seed: number | null): Promise<Float32Array> => {
      adapter!.setDropout(seed);
      const nothing = tf.zeros<tf.Rank.R2>([32, 48]);
      const delta = tf.tidy(() => adapter!.project(tf.ones([400, 48]), nothing, adapter!.tensorsOf(projection, 400)));
      nothing.dispose();
      const values = await delta.data<'float32'>();
      delta.dispose();
      return values;
    };
    const mean = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0) / values.length;
    const all = mean(await kept(null));
    const some = await kept(1);
    expect(mean(some)).to.be.closeTo(all, 0.02 * all);
    const deviation = Math.sqrt(mean(some.map((value) => (value / all - 1) ** 2)));
    expect(deviation).to.be.closeTo(Math.sqrt(0.25 / 0.75 / 48), 0.01);
    expect(await kept(1)).to.deep.equal(some);
    expect(await kept(2)).to.not.deep.equal(some);
    expect(trained).to.have.property('config');
    adapter!.dispose();
    network.dispose();
  });
});
