/** @file The commands sft, dpo and rm: trains, shows how it goes, and leaves checkpoints, metrics and charts. */
import {setImmediate} from 'node:timers/promises';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {type Batch, toBatch} from '../data/batch.js';
import {RowSource} from '../data/rows.js';
import {writeAdapter} from '../train/adapter_files.js';
import {AdamW} from '../train/adamw.js';
import type {AttentionKind} from '../train/attention.js';
import {printCharts, saveCharts} from '../train/charts.js';
import {type CheckpointParts, saveCheckpoint} from '../train/checkpoint.js';
import {LossComparison, costTable, costsOfStep} from '../train/comparison.js';
import {MetricsLog} from '../train/metrics.js';
import {rewardModelConfig, writeModelFolder} from '../train/model_folder.js';
import {dpoObjective} from '../train/objectives/dpo.js';
import type {Objective} from '../train/objectives/objective.js';
import {rmObjective} from '../train/objectives/rm.js';
import {sftObjective} from '../train/objectives/sft.js';
import {type TrainingBar, formatSeconds, trainingBar} from '../train/progress.js';
import {PrecomputedReference, adapterOffReference} from '../train/reference.js';
import {learningRate} from '../train/schedule.js';
import type {TrainedModel} from '../train/trained_model.js';
import {type StepResult, Trainer} from '../train/trainer.js';
import {BatchSource} from './data.js';
import {answer} from './generate.js';
import {describeRun, percent} from './report.js';
import {type Run, loraOptions, prepareRun, referenceFile, startModel} from './run.js';
import type {TrainOptions} from './train_options.js';

/** Side of the tiles that are counted; a tile is skipped when the mask leaves nothing of it. */
const TILE = 32;
const SAMPLE_TOKENS = 40;
/** Exit code of a run that Ctrl-C stopped, by custom. */
const INTERRUPTED = 130;

/** Trains; resolves to the exit code: 1 when dense attention gave other losses. */
export async function train(options: TrainOptions): Promise<number> {
  const started = performance.now();
  const run = await prepareRun(options);
  const {before, steps} = run;
  const done = before?.step ?? 0;
  if (done >= steps) {
    throw new Error(`--resume: all ${steps} steps are done, see ${before!.folder}.`);
  }
  const model = await startModel(run);
  console.log(describeRun(run, model));
  const reference = await precomputedReference(run, model);
  const trainers = await makeTrainers(run, model, reference);
  const first = await sample(run, trainers.flash);
  const log = new MetricsLog(join(options.output, 'metrics.jsonl'), before?.state.logHistory);
  const stopping = stopOnInterrupt();
  const {folder, comparison} = await loop(run, trainers, log, stopping);
  console.log(`Saved    ${folder}`);
  if (stopping.aborted) {
    console.log(`Stopped after step ${log.records.length} of ${steps}. Go on with --resume.`);
    return INTERRUPTED;
  }
  printCharts(log.records);
  console.log(`Charts   ${saveCharts(options.output, log.records).join(', ')}`);
  reportSamples(run, first, await sample(run, trainers.flash));
  reportTiles(log);
  if (trainers.dense !== null) {
    await reportComparison(run, trainers, comparison);
  }
  console.log(`Done in ${formatSeconds((performance.now() - started) / 1000)}.`);
  dispose(run, trainers);
  await run.files.close();
  return comparison.agrees ? 0 : 1;
}

interface Trainers {
  flash: Trainer;
  optimizer: AdamW;
  /** The twin that `--compare` asks for. */
  dense: Trainer | null;
  denseOptimizer: AdamW | null;
}

async function makeTrainers(run: Run, model: TrainedModel, reference: PrecomputedReference | null): Promise<Trainers> {
  const {options, before} = run;
  const make = async (kind: AttentionKind, trained: TrainedModel): Promise<{trainer: Trainer; optimizer: AdamW}> => {
    const {weightDecay, maxGradNorm: maxNorm} = options;
    const optimizer = new AdamW(trained.trainable, {weightDecay, maxNorm});
    if (before !== null) {
      await optimizer.restore(before.optimizer, before.step);
    }
    const objective = objectiveOf(options, trained, kind, reference);
    return {trainer: new Trainer(trained, objective, optimizer, kind, options.seed), optimizer};
  };
  const flash = await make('flash', model);
  if (options.compare === 0) {
    return {flash: flash.trainer, optimizer: flash.optimizer, dense: null, denseOptimizer: null};
  }
  // Frozen weights are the same for both.
  const twin = await make('dense', await startModel(run, options.lora ? model.network : undefined));
  return {flash: flash.trainer, optimizer: flash.optimizer, dense: twin.trainer, denseOptimizer: twin.optimizer};
}

function objectiveOf(
  {objective, beta, labelSmoothing, centering}: TrainOptions,
  model: TrainedModel,
  kind: AttentionKind,
  reference: PrecomputedReference | null,
): Objective {
  switch (objective) {
    case 'sft':
      return sftObjective;
    case 'dpo':
      return dpoObjective({beta, labelSmoothing}, reference?.of ?? adapterOffReference(model, kind));
    case 'rm':
      return rmObjective(centering);
  }
}

/** Adapters can be switched off at any step; all weights cannot, so the reference is computed before the first one. */
async function precomputedReference(run: Run, model: TrainedModel): Promise<PrecomputedReference | null> {
  const {options, rows, tokenizer, before, heldOut} = run;
  if (options.objective !== 'dpo' || options.lora) {
    return null;
  }
  const file = referenceFile(run);
  if (before !== null) {
    return PrecomputedReference.load(file);
  }
  const reference = new PrecomputedReference();
  for (const batch of heldOut) {
    await reference.add(model, batch);
  }
  let done = 0;
  for await (const row of new RowSource({...rows, epochs: 1}, tokenizer)) {
    const batch = toBatch([row], rows.rowTokens);
    await reference.add(model, batch);
    batch.dispose();
    if (++done % 10 === 0) console.log(`Reference log-probabilities: ${done} of ${run.epoch.rows} rows`);
  }
  await reference.save(file);
  return reference;
}

/** Set by Ctrl-C: the run stops after the present step. */
function stopOnInterrupt(): AbortSignal {
  const controller = new AbortController();
  process.once('SIGINT', () => {
    controller.abort();
    console.log('\nStopping after this step, with a checkpoint (Ctrl-C again: at once, without).');
  });
  return controller.signal;
}

/** Trains to the last step or to Ctrl-C. The twin, if any, does the first `compare` steps too. */
async function loop(
  run: Run,
  trainers: Trainers,
  log: MetricsLog,
  stopping: AbortSignal,
): Promise<{folder: string; comparison: LossComparison}> {
  const {options, steps, tokenizer, before} = run;
  const data = new BatchSource(
    run.rows,
    tokenizer,
    options,
    before?.state.position as BatchSource['position'] | undefined,
  );
  const comparison = new LossComparison();
  const bar = trainingBar(steps, log.records.length);
  let folder = '';
  try {
    while (log.records.length < steps && !stopping.aborted) {
      const batches = await data.next();
      const rate = learningRate(
        log.records.length,
        steps,
        options.learningRate,
        Math.ceil(options.warmupRatio * steps),
      );
      const result = await trainers.flash.step(batches, rate);
      if (trainers.dense !== null && comparison.steps < options.compare) {
        comparison.add(result.loss, (await trainers.dense.step(batches, rate)).loss);
      }
      await run.device.check();
      record(run, log, bar, {batches, rate, result, position: data.position});
      batches.forEach((batch) => batch.dispose());
      // Without this nothing lets Node look for Ctrl-C on the cpu backend.
      await setImmediate();
      const step = log.records.length;
      if (step % options.saveEvery === 0 || step === steps || stopping.aborted) {
        folder = await saveCheckpoint(
          options.output,
          step,
          checkpointParts(run, trainers, data, log),
          options.saveLimit,
        );
      }
    }
  } finally {
    bar.stop();
    await data.close();
  }
  return {folder, comparison};
}

interface StepRecord {
  batches: Batch[];
  rate: number;
  result: StepResult;
  position: BatchSource['position'];
}

function record(run: Run, log: MetricsLog, bar: TrainingBar, {batches, rate, result, position}: StepRecord): void {
  const tokens = batches.reduce((sum, batch) => sum + batch.tokens, 0);
  const places = batches.reduce((sum, {positions}) => sum + positions.length, 0);
  const tokensPerSecond = tokens / (result.milliseconds / 1000);
  const empty = batches.map((batch) => batch.mask(null).sparsity({blockQ: TILE, blockK: TILE}).emptyTiles);
  log.append({
    global_step: log.records.length + 1,
    epoch: position.epoch + position.row / run.epoch.rows,
    loss: result.loss,
    learning_rate: rate,
    grad_norm: result.gradNorm,
    num_tokens: (log.records.at(-1)?.num_tokens ?? 0) + tokens,
    ...result.metrics,
    tokens_per_second: tokensPerSecond,
    packing_density: tokens / places,
    tile_sparsity: empty.reduce((sum, fraction) => sum + fraction, 0) / empty.length,
  });
  bar.update({step: log.records.length, loss: result.loss, learningRate: rate, tokensPerSecond});
}

function checkpointParts(
  run: Run,
  {flash: {model}, optimizer}: Trainers,
  data: BatchSource,
  log: MetricsLog,
): CheckpointParts {
  return {
    state: {...run.identity, position: {...data.position}, logHistory: log.records},
    writeModel: (folder) => writeModel(run, model, folder),
    optimizer: {shapes: optimizer.shapes, tensors: optimizer.download()},
  };
}

/** A PEFT adapter, or the whole model as a Hugging Face folder. */
async function writeModel({options, files}: Run, model: TrainedModel, folder: string): Promise<void> {
  const rewardModel = options.objective === 'rm';
  if (options.lora) {
    const tensors: [string, {shape: number[]; data: Float32Array}][] = [];
    for await (const entry of model.download()) tensors.push(entry);
    const taskType = rewardModel ? 'SEQ_CLS' : 'CAUSAL_LM';
    await writeAdapter(folder, {...loraOptions(options), baseModel: files.origin, taskType, tensors});
    return;
  }
  const configJson = rewardModel && !files.config.scoreHead ? rewardModelConfig(files.configJson) : files.configJson;
  const {tokenizerJson, tokenizerConfig} = files;
  await writeModelFolder(folder, {
    configJson,
    tokenizerJson,
    tokenizerConfig,
    shapes: model.shapes,
    tensors: model.download(),
  });
}

/** What the model can, before or after training. */
interface Sample {
  heldOutLoss: number | null;
  text: string | null;
}

async function sample({options, tokenizer, heldOut}: Run, trainer: Trainer): Promise<Sample> {
  const {prompt} = options;
  return {
    heldOutLoss: heldOut.length > 0 ? await trainer.evaluate(heldOut) : null,
    text: prompt === undefined ? null : await answer(trainer.model, tokenizer, prompt, {maxNewTokens: SAMPLE_TOKENS}),
  };
}

function reportSamples({options}: Run, first: Sample, last: Sample): void {
  if (first.heldOutLoss !== null) {
    console.log(`Held-out loss      ${first.heldOutLoss.toFixed(4)} before, ${last.heldOutLoss!.toFixed(4)} after`);
  }
  if (first.text !== null) {
    console.log(`Prompt             ${options.prompt}`);
    console.log(`  before           ${JSON.stringify(first.text)}`);
    console.log(`  after            ${JSON.stringify(last.text)}`);
  }
}

function reportTiles({records}: MetricsLog): void {
  const mean = records.reduce((sum, {tile_sparsity: empty}) => sum + empty, 0) / records.length;
  console.log(`Tiles skipped      ${percent(mean)} of ${TILE} x ${TILE} tiles`);
}

/** Measures one more step of each attention. */
async function reportComparison(run: Run, trainers: Trainers, comparison: LossComparison): Promise<void> {
  console.log(comparison.toString());
  const data = new BatchSource(run.rows, run.tokenizer, {batchRows: run.options.batchRows, accumulate: 1});
  const batches = await data.next();
  const [flash, dense] = await costsOfStep([trainers.flash, trainers.dense!], batches);
  const [{ids, samples}] = batches;
  console.log(`\n${costTable(flash, dense, `${ids.shape.join(' x ')} tokens, samples: ${samples.length}`)}\n`);
  batches.forEach((batch) => batch.dispose());
  await data.close();
}

function dispose({heldOut}: Run, {flash, optimizer, dense, denseOptimizer}: Trainers): void {
  heldOut.forEach((batch) => batch.dispose());
  dense?.model.dispose();
  flash.model.dispose();
  optimizer.dispose();
  denseOptimizer?.dispose();
  tf.disposeVariables();
}
