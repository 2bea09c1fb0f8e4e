/** @file Everything that a training run needs, opened and checked before its first step. */
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {sha256OfFile} from '../../../src/cli/files.js';
import type {ProcessGroup} from '../../../src/distributed/process_group.js';
import {soloGroup} from '../../../src/distributed/solo_group.js';
import type {Batch} from '../data/batch.js';
import type {RowSettings} from '../data/rows.js';
import {ChatTokenizer} from '../data/tokenizer.js';
import type {Device} from '../device.js';
import type {Session} from '../io.js';
import type {LoraOptions} from '../model/lora.js';
import {readAdapter} from '../train/adapter_files.js';
import {checkReportTo} from '../train/event_log.js';
import {type Checkpoint, checkSameRun, loadCheckpoint} from '../train/checkpoint.js';
import {checkpointFolder} from '../train/checkpoint_folders.js';
import type {RunIdentity} from '../train/checkpoint_state.js';
import {fingerprint} from '../train/fingerprint.js';
import {type OutputFolder, REFERENCE_FILE} from '../train/output_folder.js';
import {type Ranks, SharedError, checkEqual, oneFirst, together} from '../train/ranks.js';
import {TrainedModel, checkCompilation} from '../train/trained_model.js';
import {type ModelFiles, openModel} from '../weights/model_files.js';
import {type Epoch, countEpoch, dataPath, heldOutBatches, rowSettings} from './data.js';
import {openDevice, openFiles} from './opening.js';
import {openSharedOutput} from './shared_output.js';
import type {TrainOptions} from './train_options.js';

export interface Run {
  options: TrainOptions;
  session: Session;
  /** The processes that train together. */
  ranks: Ranks;
  /** Those of them that share rows with this one. */
  team: ProcessGroup;
  device: Device;
  /** The base model. */
  files: ModelFiles;
  tokenizer: ChatTokenizer;
  /** Drawn at the start of a run, and the same after --resume. */
  id: string;
  identity: RunIdentity;
  /** Null on ranks that write nothing. */
  output: OutputFolder | null;
  /** The checkpoint that a resumed run continues. */
  before: Checkpoint | null;
  rows: RowSettings;
  /** Of the first epoch. */
  epoch: Epoch;
  /** Batches of a step, on all ranks together. */
  batches: number;
  /** Total steps of the optimizer, and those of them until the peak of the learning rate. */
  steps: number;
  warmupSteps: number;
  heldOut: Batch[];
}

/** What the caller has opened already. The options determine the rest. */
export type Opened = Partial<Pick<Run, 'device' | 'files' | 'output'>>;

export async function prepareRun(
  options: TrainOptions,
  session: Session,
  ranks: Ranks,
  opened: Opened = {},
): Promise<Run> {
  const {io} = session;
  if (options.evalSteps !== undefined && options.evalSamples === 0) {
    throw new Error(
      '--eval-steps: there is nothing to measure on. Give --eval-samples, the first records to hold out.',
    );
  }
  const {reportTo, backend} = options;
  if (backend !== 'auto') checkReportTo(reportTo, backend);
  await checkEqual(ranks, flagsOf(options), 'Give all ranks the same options.');
  const team = teamOf(options, ranks);
  const output = await openSharedOutput(options.output, session, ranks, {opened: opened.output});
  const {id, before} = await startOrResume(options, session, ranks, output);
  const device = opened.device ?? (await openDevice(options.backend, session));
  io.say(`Device   ${device.description}`);
  checkReportTo(reportTo, tf.getBackend());
  io.say('Reading  the model, and the data once, to count them');
  checkCompilation(options);
  const files = opened.files ?? (await oneFirst(ranks, () => openFiles(options.model, session)));
  if (files.config.scoreHead && options.objective !== 'rm') {
    throw new Error(
      `${files.origin} is a reward model, which writes no text: ${options.objective} needs a language model.`,
    );
  }
  const tokenizer = new ChatTokenizer(files.tokenizerJson, files.tokenizerConfig, files.config.vocabSize, files.origin);
  const file = await oneFirst(ranks, () => dataPath(options.data, io));
  const rows = rowSettings(file, options, files.config);
  // The held-out records are the first ones of the file, so their problems come first.
  const heldOut = await heldOutBatches(rows, tokenizer, options.evalSamples);
  session.atEnd(() => heldOut.forEach((batch) => batch.dispose()));
  const epoch = await countEpoch(rows, tokenizer, io);
  const batches = options.accumulate * (ranks.size / team.size);
  checkEnoughRows(epoch, options, ranks, team);
  const steps = stepsOf(options, batches, epoch);
  // A resumed run keeps its warm-up, however many steps it now has.
  const warmupSteps = before ? plannedBefore(before, {options, batches, epoch}).warmupSteps : warmupOf(options, steps);
  const data = {'data file': await sha256OfFile(file), 'data as tokens': epoch.sha256};
  const identity = {
    settings: {...settingsOf(options, batches), 'warmup-steps': warmupSteps, ...data},
    baseModel: {origin: files.origin, fingerprint: await fingerprint(files)},
  };
  await checkEqual(ranks, {...identity.settings, ...identity.baseModel.fingerprint}, 'Give all ranks the same.');
  if (before !== null) checkSameRun(before.folder, before.state, identity);
  if (before !== null) checkMoreToDo(before, steps);
  const common = {options, session, ranks, team, device, files, tokenizer, id, identity, output, before};
  return {...common, rows, epoch, batches, steps, warmupSteps, heldOut};
}

/** All options by their flags, but the folder, which machines may have in different places. */
function flagsOf({objective, ...options}: TrainOptions): Record<string, unknown> {
  const flag = (name: string): string => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
  const others = Object.entries(options).filter(([name]) => name !== 'output');
  return {'the command': objective, ...Object.fromEntries(others.map(([name, value]) => [flag(name), value]))};
}

/** A new id, or the checkpoint to go on from: what the rank of the output folder has found. */
async function startOrResume(
  {output: path, resume}: TrainOptions,
  {io}: Session,
  ranks: Ranks,
  output: OutputFolder | null,
): Promise<{id: string; before: Checkpoint | null}> {
  const [found] = await together(ranks, async () => {
    if (output === null) return {id: '', step: 0};
    if (!resume) return {id: await output.startRun(io.warn), step: 0};
    const {state, step} = await output.resumeRun(io.warn);
    return {id: state.run, step};
  });
  const before = found.step === 0 ? null : await loadCheckpoint(checkpointFolder(path, found.step));
  return {id: found.id, before};
}

/** The ranks that share rows with this one: neighbours. */
function teamOf({contextParallel, rowTokens, compare}: TrainOptions, ranks: Ranks): ProcessGroup {
  if (contextParallel === 1) return soloGroup;
  const refuse = (why: string): never => {
    throw new SharedError(`--context-parallel ${contextParallel}: ${why}`);
  };
  if (ranks.size % contextParallel !== 0) {
    refuse(`as many ranks must share each row, and ${ranks.size} cannot. Start a multiple of ${contextParallel}.`);
  }
  if (rowTokens % contextParallel !== 0) {
    refuse(`--row-tokens must be a multiple of it, got ${rowTokens}. Multiples of 256 times as much are the fastest.`);
  }
  if (compare > 0) refuse('dense attention, which --compare asks for, needs whole rows. Leave out one of the two.');
  return ranks.split(Math.floor(ranks.rank / contextParallel));
}

function checkEnoughRows({rows}: Epoch, {batchRows, data}: TrainOptions, ranks: Ranks, team: ProcessGroup): void {
  const size = ranks.size / team.size;
  if (size === 1 || rows >= size * batchRows) return;
  const sharing = team.size > 1 ? `, ${team.size} for each row,` : '';
  throw new SharedError(
    `${ranks.size} ranks${sharing} with --batch-rows ${batchRows} need at least ${size * batchRows} rows, but ${data} has ${rows} in an ` +
      'epoch. Start fewer processes, or give fewer --row-tokens.',
  );
}

type Length = Pick<TrainOptions, 'steps' | 'epochs' | 'batchRows'>;

function stepsOf({steps, epochs, batchRows}: Length, batches: number, epoch: Epoch): number {
  return steps ?? Math.ceil((epoch.rows * epochs) / (batchRows * batches));
}

function warmupOf({warmupRatio}: Pick<TrainOptions, 'warmupRatio'>, steps: number): number {
  return Math.ceil(warmupRatio * steps);
}

/** The length of the run as it was planned when its checkpoint was written. */
export function plannedBefore(
  {state}: Checkpoint,
  {options, batches, epoch}: Pick<Run, 'options' | 'batches' | 'epoch'>,
): {steps: number; warmupSteps: number} {
  const {steps: given, epochs, 'warmup-steps': warmup} = state.settings as Record<string, number | undefined>;
  const steps = stepsOf({...options, steps: given, epochs: epochs ?? options.epochs}, batches, epoch);
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

/**
 * Options that change the losses, by their names on the command line. One process with as much `accumulate` has the
 * same losses as several ranks.
 */
function settingsOf(options: TrainOptions, batches: number): Record<string, unknown> {
  const {objective, data, loraTargets, loraRank, loraAlpha, loraDropout, rslora, ...others} = options;
  const {lora, rowTokens, batchRows, maxTokens, tooLong, shareQuestions, skipBad, evalSamples} = others;
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
    accumulate: batches,
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
