/** @file Everything that a training run needs, opened and checked before its first step. */
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {sha256OfFile} from '../../../src/cli/files.js';
import type {Batch} from '../data/batch.js';
import type {RowSettings} from '../data/rows.js';
import {ChatTokenizer} from '../data/tokenizer.js';
import type {Device} from '../device.js';
import type {Session} from '../io.js';
import type {LoraOptions} from '../model/lora.js';
import {readAdapter} from '../train/adapter_files.js';
import {checkReportTo} from '../train/event_log.js';
import {type Checkpoint, checkSameRun} from '../train/checkpoint.js';
import type {RunIdentity} from '../train/checkpoint_state.js';
import {fingerprint} from '../train/fingerprint.js';
import {type OutputFolder, REFERENCE_FILE} from '../train/output_folder.js';
import {TrainedModel, checkCompilation} from '../train/trained_model.js';
import {type ModelFiles, openModel} from '../weights/model_files.js';
import {type Epoch, countEpoch, dataPath, heldOutBatches, rowSettings} from './data.js';
import {openDevice, openFiles, openOutput} from './opening.js';
import type {TrainOptions} from './train_options.js';

export interface Run {
  options: TrainOptions;
  session: Session;
  device: Device;
  /** The base model. */
  files: ModelFiles;
  tokenizer: ChatTokenizer;
  /** Drawn at the start of a run, and the same after --resume. */
  id: string;
  identity: RunIdentity;
  output: OutputFolder;
  /** The checkpoint that a resumed run continues. */
  before: Checkpoint | null;
  rows: RowSettings;
  /** Of the first epoch. */
  epoch: Epoch;
  /** Total steps of the optimizer, and those of them until the peak of the learning rate. */
  steps: number;
  warmupSteps: number;
  heldOut: Batch[];
}

/** What the caller has opened already. The options determine the rest. */
export type Opened = Partial<Pick<Run, 'device' | 'files' | 'output'>>;

export async function prepareRun(options: TrainOptions, session: Session, opened: Opened = {}): Promise<Run> {
  const {io} = session;
  if (options.evalSteps !== undefined && options.evalSamples === 0) {
    throw new Error(
      '--eval-steps: there is nothing to measure on. Give --eval-samples, the first records to hold out.',
    );
  }
  const {reportTo, backend} = options;
  if (backend !== 'auto') checkReportTo(reportTo, backend);
  const output = opened.output ?? openOutput(options.output, session);
  const before = options.resume ? await output.resumeRun(io.warn) : null;
  const id = before?.state.run ?? (await output.startRun(io.warn));
  const device = opened.device ?? (await openDevice(options.backend, session));
  io.say(`Device   ${device.description}`);
  checkReportTo(reportTo, tf.getBackend());
  io.say('Reading  the model, and the data once, to count them');
  checkCompilation(options);
  const files = opened.files ?? (await openFiles(options.model, session));
  if (files.config.scoreHead && options.objective !== 'rm') {
    throw new Error(
      `${files.origin} is a reward model, which writes no text: ${options.objective} needs a language model.`,
    );
  }
  const tokenizer = new ChatTokenizer(files.tokenizerJson, files.tokenizerConfig, files.config.vocabSize, files.origin);
  const file = await dataPath(options.data, io);
  const rows = rowSettings(file, options, files.config);
  // The held-out records are the first ones of the file, so their problems come first.
  const heldOut = await heldOutBatches(rows, tokenizer, options.evalSamples);
  session.atEnd(() => heldOut.forEach((batch) => batch.dispose()));
  const epoch = await countEpoch(rows, tokenizer, io);
  const steps = stepsOf(options, epoch);
  // A resumed run keeps its warm-up, however many steps it now has.
  const warmupSteps = before ? plannedBefore(before, options, epoch).warmupSteps : warmupOf(options, steps);
  const data = {'data file': await sha256OfFile(file), 'data as tokens': epoch.sha256};
  const identity = {
    settings: {...settingsOf(options), 'warmup-steps': warmupSteps, ...data},
    baseModel: {origin: files.origin, fingerprint: await fingerprint(files)},
  };
  if (before !== null) checkSameRun(before.folder, before.state, identity);
  if (before !== null) checkMoreToDo(before, steps);
  const common = {options, session, device, files, tokenizer, id, identity, output, before};
  return {...common, rows, epoch, steps, warmupSteps, heldOut};
}

type Length = Pick<TrainOptions, 'steps' | 'epochs' | 'batchRows' | 'accumulate'>;

function stepsOf({steps, epochs, batchRows, accumulate}: Length, epoch: Epoch): number {
  return steps ?? Math.ceil((epoch.rows * epochs) / (batchRows * accumulate));
}

function warmupOf({warmupRatio}: Pick<TrainOptions, 'warmupRatio'>, steps: number): number {
  return Math.ceil(warmupRatio * steps);
}

/** The length of the run as it was planned when its checkpoint was written. */
export function plannedBefore(
  {state}: Checkpoint,
  options: TrainOptions,
  epoch: Epoch,
): {steps: number; warmupSteps: number} {
  const {steps: given, epochs, 'warmup-steps': warmup} = state.settings as Record<string, number | undefined>;
  const steps = stepsOf({...options, steps: given, epochs: epochs ?? options.epochs}, epoch);
  // Checkpoints of before runs could go on longer have no warm-up.
  return {steps, warmupSteps: warmup ?? warmupOf(options, steps)};
}

function checkMoreToDo({step, folder}: Checkpoint, steps: number): void {
  if (step < steps) return;
  const done =
    step === steps
      ? `all ${steps} steps are done`
      : `${step} steps are done, which is more than the ${steps} asked for`;
  throw new Error(`--resume: ${done}, see ${folder}. Give more --steps than ${step} to go on.`);
}

/** Options that change the losses, by their names on the command line. */
function settingsOf(options: TrainOptions): Record<string, unknown> {
  const {objective, data, loraTargets, loraRank, loraAlpha, loraDropout, rslora, ...others} = options;
  const {lora, rowTokens, batchRows, accumulate, maxTokens, tooLong, shareQuestions, skipBad, evalSamples} = others;
  const {steps, epochs, learningRate, warmupRatio, weightDecay, maxGradNorm, seed} = others;
  const {beta, labelSmoothing, centering} = others;
  const adapters = {'lora-targets': loraTargets.join(), 'lora-rank': loraRank, 'lora-alpha': loraAlpha};
  return {
    command: objective,
    data,
    lora,
    ...(lora ? {...adapters, 'lora-dropout': loraDropout, rslora} : {}),
    'row-tokens': rowTokens,
    'batch-rows': batchRows,
    accumulate,
    'max-tokens': maxTokens,
    'too-long': tooLong,
    'share-questions': shareQuestions,
    'skip-bad': skipBad,
    'eval-samples': evalSamples,
    steps,
    epochs,
    'learning-rate': learningRate,
    'warmup-ratio': warmupRatio,
    'weight-decay': weightDecay,
    'max-grad-norm': maxGradNorm,
    seed,
    beta,
    'label-smoothing': labelSmoothing,
    centering,
    // Checkpoints from before there was a choice have none.
    ...(options.dtype === 'float32' ? {} : {dtype: options.dtype}),
    // Reference log-probabilities differ in their last digits when the rows are packed differently.
    ...(options.precomputeReference ? {'precompute-reference': true} : {}),
  };
}

export function loraOptions(options: TrainOptions): LoraOptions {
  const {loraRank: rank, loraAlpha: alpha, loraDropout: dropout, loraTargets: targetModules, rslora} = options;
  return {rank, alpha, dropout, targetModules, useRslora: rslora};
}

/** The model that the run starts with: the base, or that of the checkpoint. It stays until the end of the command. */
export async function startModel(run: Run, frozen?: TrainedModel['network']): Promise<TrainedModel> {
  const model = await loadModel(run, frozen);
  run.session.atEnd(() => model.dispose());
  return model;
}

async function loadModel({options, files, before}: Run, frozen?: TrainedModel['network']): Promise<TrainedModel> {
  const common = {
    rewardModel: options.objective === 'rm',
    seed: options.seed,
    keepActivations: options.keepActivations === 'always',
    eager: options.eager,
    compilation: {xla: options.xla, bfloat16: options.dtype === 'bfloat16'},
  };
  if (options.lora) {
    const saved = before && (await readAdapter(before.folder, {...files.config, scoreHead: common.rewardModel}));
    return TrainedModel.load(files, {...common, lora: loraOptions(options), adapterTensors: saved?.tensors}, frozen);
  }
  if (before === null) {
    return TrainedModel.load(files, {...common, lora: null});
  }
  const trained = await openModel(before.folder);
  try {
    return await TrainedModel.load(trained, {...common, lora: null});
  } finally {
    await trained.close();
  }
}

export function referenceFile({options}: Run): string {
  return join(options.output, REFERENCE_FILE);
}
