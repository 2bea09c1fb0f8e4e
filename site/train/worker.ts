/** @file Trains in a worker: a small model with flashMaskAttention, and its twin with dense attention. */
import type {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';
import {toBatch} from '../../examples/finetune/data/batch.js';
import type {Row} from '../../examples/finetune/data/sample.js';
import {peakBytes} from '../../examples/finetune/memory.js';
import {generateTokens} from '../../examples/finetune/model/generate.js';
import {useSoftwareMatMul} from '../../examples/finetune/software_matmul.js';
import {AdamW} from '../../examples/finetune/train/adamw.js';
import type {AttentionKind} from '../../examples/finetune/train/attention.js';
import {sftObjective} from '../../examples/finetune/train/objectives/sft.js';
import {learningRate} from '../../examples/finetune/train/schedule.js';
import {TrainedModel} from '../../examples/finetune/train/trained_model.js';
import {type StepResult, Trainer} from '../../examples/finetune/train/trainer.js';
import type {ModelFiles} from '../../examples/finetune/weights/model_files.js';
import {registerWebGPULayers} from '../../src/backends/webgpu/layers/register.js';
import {startBackend} from '../shell/webgpu.js';
import {onOrder, post} from '../shell/worker_messages.js';
import type {Answer, Order, Side} from './messages.js';
import {packedRows, readTexts} from './texts.js';

const SEED = 1;
const WARMUP_STEPS = 5;

const answer = (message: Answer): void => {
  post(message);
};

const status = (text: string): void => {
  answer({type: 'status', text});
};

onOrder(run);

async function run(order: Order): Promise<void> {
  status('Starting the backend…');
  if (order.backend === 'webgpu') registerWebGPULayers();
  const check = await startBackend(order.backend, 'stock');
  if (order.backend === 'webgpu' && order.software) useSoftwareMatMul();
  status('Learning a tokenizer from the guides…');
  const {files, tokenizer, samples} = readTexts(Math.max(16, order.rowTokens >> 2), SEED);
  const flash = await trainerOf(files, 'flash');
  const dense = order.dense ? await trainerOf(files, 'dense') : null;
  status('Writing before the training…');
  await write('before', flash, tokenizer, order);
  const rows = packedRows(samples, order.rowTokens, SEED);
  for (let step = 0; step < order.steps; step++) {
    await trainStep(step, order, {flash, dense}, take(rows, order.rows));
    check();
  }
  status('Writing after the training…');
  await write('after', flash, tokenizer, order);
  check();
  answer({type: 'done'});
}

async function trainerOf(files: ModelFiles, kind: AttentionKind): Promise<Trainer> {
  const model = await TrainedModel.load(files, {lora: null, rewardModel: false, seed: SEED, keepActivations: true});
  return new Trainer(model, sftObjective, new AdamW(model.trainable), kind, SEED);
}

const take = (rows: Iterator<Row, void>, count: number): Row[] =>
  Array.from({length: count}, () => rows.next().value as Row);

/** One step of both models on the same rows. */
async function trainStep(
  step: number,
  {steps, rowTokens, learningRate: peak}: Order,
  {flash, dense}: {flash: Trainer; dense: Trainer | null},
  rows: Row[],
): Promise<void> {
  const batch = toBatch(rows, rowTokens);
  const rate = learningRate(step, steps, peak, Math.min(WARMUP_STEPS, steps));
  // The second step is counted: the first one also makes the optimizer's state and compiles shaders.
  const counted = step === Math.min(1, steps - 1);
  const stepOf = async (trainer: Trainer): Promise<Side> => {
    let result: StepResult | undefined;
    const work = async (): Promise<void> => {
      result = await trainer.step([batch], rate);
    };
    let bytes: number | undefined;
    if (counted) bytes = await peakBytes(work);
    else await work();
    const {loss, milliseconds} = result!;
    return {loss, milliseconds, bytes};
  };
  const sides = {flash: await stepOf(flash), dense: dense && (await stepOf(dense))};
  batch.dispose();
  const lengths = rows[0].samples.map(({tokens}) => tokens.length);
  answer({type: 'step', step, tokens: batch.tokens, lengths, ...sides});
}

/** Streams what the model writes. */
async function write(
  when: 'before' | 'after',
  {model}: Trainer,
  tokenizer: ChatTokenizer,
  {prompt, words}: Order,
): Promise<void> {
  // An untrained model ends its text at any place.
  const eosTokenIds = when === 'before' ? [] : model.config.eosTokenIds;
  const options = {maxNewTokens: words, temperature: 0.7, topP: 0.9, seed: SEED, eosTokenIds};
  answer({type: 'text', when, piece: prompt});
  // A prompt of the training: an empty question.
  for await (const token of generateTokens(model.network, tokenizer.encode(`\n${prompt}`), options)) {
    answer({type: 'text', when, piece: tokenizer.decode([token])});
  }
}
