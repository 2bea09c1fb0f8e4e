/**
 * @file Checkpoints of a run: folders `checkpoint-<step>` with the model (a PEFT adapter or a whole Hugging Face
 * folder), the optimizer and `trainer_state.json`. A checkpoint is written under another name and renamed when it is
 * complete and on the disk. So the last good one survives if the process stops or the disk is full.
 */
import {createHash} from 'node:crypto';
import {existsSync} from 'node:fs';
import {mkdir, readFile, readdir, rename, rm} from 'node:fs/promises';
import {basename, join} from 'node:path';
import type {HostTensor} from '../host_tensor.js';
import {processIo} from '../io.js';
import {weightShapes} from '../model/config.js';
import type {ModelFiles} from '../weights/model_files.js';
import {type Tensors, openSafetensors, writeSafetensors} from '../weights/safetensors.js';
import {sha256OfFile, syncFolder, writeJson} from './durable_files.js';
import type {MetricsRecord} from './metrics.js';

/** What a resumed run must share with the run of the checkpoint, so that its losses continue without a difference. */
export interface RunIdentity {
  /** Every option that changes the numbers, by its user-facing name. JSON values. */
  settings: Readonly<Record<string, unknown>>;
  baseModel: {origin: string; fingerprint: string};
}

/** The part of `trainer_state.json` that the training loop passes in and gets back. */
export interface TrainerState extends RunIdentity {
  /** Where the data continues. JSON values. */
  position: Readonly<Record<string, number>>;
  logHistory: readonly MetricsRecord[];
}

export interface CheckpointParts {
  state: TrainerState;
  /** Writes the model into a folder: `writeAdapter` or `writeModelFolder`. */
  writeModel: (folder: string) => Promise<void>;
  /** The optimizer's state by name, and its shapes. */
  optimizer: {shapes: ReadonlyMap<string, readonly number[]>; tensors: Tensors};
}

export interface Checkpoint {
  /** Folder of the checkpoint, for `readAdapter` or `openModel`. */
  folder: string;
  step: number;
  state: TrainerState;
  /** The optimizer's tensors, read one by one. Can be iterated repeatedly. */
  optimizer: AsyncIterable<[string, HostTensor]>;
}

/** The content of `trainer_state.json`. */
interface StateFile {
  format: string;
  format_version: number;
  global_step: number;
  settings: TrainerState['settings'];
  base_model: TrainerState['baseModel'];
  data_position: TrainerState['position'];
  log_history: TrainerState['logHistory'];
  /** SHA-256 of each other file. */
  files: Record<string, string>;
}

const FORMAT = 'tfjs-flashmask checkpoint';
const FORMAT_VERSION = 1;
const STATE_FILE = 'trainer_state.json';
const OPTIMIZER_FILE = 'optimizer.safetensors';
/** Names of folders during a write or a deletion. Any folder with such a name can be deleted. */
const UNFINISHED = /^\.checkpoint-\d+\.(new|old)$/;

/**
 * Writes `<outputFolder>/checkpoint-<step>` in one step, then deletes the oldest checkpoints beyond `saveLimit`.
 * Replaces a checkpoint of the same step. Before a fresh run, ask `latestCheckpoint` whether the folder holds another
 * run.
 *
 * @param saveLimit How many checkpoints to keep, including this one; at least 1.
 * @returns the checkpoint's folder.
 * @throws when it cannot be written, for example because the disk is full. Earlier checkpoints are then unchanged.
 */
export async function saveCheckpoint(
  outputFolder: string,
  step: number,
  parts: CheckpointParts,
  saveLimit = Infinity,
): Promise<string> {
  await mkdir(outputFolder, {recursive: true});
  await removeUnfinished(outputFolder);
  const folder = join(outputFolder, `checkpoint-${step}`);
  const unfinished = join(outputFolder, `.checkpoint-${step}.new`);
  try {
    await mkdir(unfinished);
    await parts.writeModel(unfinished);
    await writeSafetensors(join(unfinished, OPTIMIZER_FILE), parts.optimizer.shapes, parts.optimizer.tensors);
    await writeJson(join(unfinished, STATE_FILE), await stateFile(unfinished, step, parts.state));
    await syncFolder(unfinished);
    await discard(folder);
    await rename(unfinished, folder);
    await syncFolder(outputFolder);
  } catch (error) {
    await rm(unfinished, {recursive: true, force: true});
    throw await failure(error as Error, outputFolder, step);
  }
  const older = (await stepsIn(outputFolder)).filter((other) => other < step);
  for (const other of older.slice(saveLimit - 1)) {
    await discard(join(outputFolder, `checkpoint-${other}`));
  }
  return folder;
}

async function stateFile(folder: string, step: number, state: TrainerState): Promise<StateFile> {
  const files: Record<string, string> = {};
  for (const name of await readdir(folder)) {
    files[name] = await sha256OfFile(join(folder, name));
  }
  return {
    format: FORMAT,
    format_version: FORMAT_VERSION,
    global_step: step,
    settings: state.settings,
    base_model: state.baseModel,
    data_position: state.position,
    log_history: state.logHistory,
    files,
  };
}

async function failure(error: Error, outputFolder: string, step: number): Promise<Error> {
  const last = (await stepsIn(outputFolder)).at(0);
  const stays =
    last === undefined ? 'There is none yet to resume from.' : `checkpoint-${last} is there to resume from.`;
  const message = `Checkpoint ${step} could not be written to ${outputFolder}: ${error.message}. ${stays}`;
  return new Error(message, {cause: error});
}

/** Deletes a checkpoint. A half-deleted one cannot be mistaken for a checkpoint. */
async function discard(folder: string): Promise<void> {
  if (existsSync(folder)) {
    const leaving = join(folder, '..', `.${basename(folder)}.old`);
    await rename(folder, leaving);
    await rm(leaving, {recursive: true});
  }
}

/** Deletes all checkpoints in a folder, for a run that starts over. */
export async function removeCheckpoints(outputFolder: string): Promise<void> {
  await removeUnfinished(outputFolder);
  for (const step of await stepsIn(outputFolder)) {
    await discard(join(outputFolder, `checkpoint-${step}`));
  }
}

async function removeUnfinished(outputFolder: string): Promise<void> {
  for (const name of await unfinishedIn(outputFolder)) {
    await rm(join(outputFolder, name), {recursive: true});
  }
}

async function unfinishedIn(outputFolder: string): Promise<string[]> {
  return (await namesIn(outputFolder)).filter((name) => UNFINISHED.test(name));
}

/** Steps of the checkpoints in a folder, the latest first. */
async function stepsIn(outputFolder: string): Promise<number[]> {
  const names = await namesIn(outputFolder);
  const steps = names.map((name) => /^checkpoint-(\d+)$/.exec(name)?.[1]).filter((step) => step !== undefined);
  return steps.map(Number).sort((a, b) => b - a);
}

async function namesIn(folder: string): Promise<string[]> {
  return existsSync(folder) ? readdir(folder) : [];
}

/**
 * The folder of the latest intact checkpoint, or null if there is none. Every byte of it is checked.
 *
 * @param say Called with each unfinished or damaged checkpoint that is skipped, and the reason.
 */
export async function latestCheckpoint(
  outputFolder: string,
  say: (text: string) => void = processIo.warn,
): Promise<string | null> {
  for (const name of await unfinishedIn(outputFolder)) {
    say(`Passed over ${join(outputFolder, name)}: the process was stopped before that was done.`);
  }
  for (const step of await stepsIn(outputFolder)) {
    const folder = join(outputFolder, `checkpoint-${step}`);
    const damage = await findDamage(folder);
    if (damage === null) {
      return folder;
    }
    say(`Passed over ${folder}: ${damage}.`);
  }
  return null;
}

/** The damage of a checkpoint, or null. */
async function findDamage(folder: string): Promise<string | null> {
  try {
    const {files} = await readState(folder);
    for (const [name, expected] of Object.entries(files)) {
      if ((await sha256OfFile(join(folder, name))) !== expected) {
        return `${name} is not as it was written`;
      }
    }
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * Reads a checkpoint. Throws if there is none, or if another run made it, and names the difference.
 *
 * @param run The run to compare with. Default: no comparison.
 */
export async function loadCheckpoint(folder: string, run?: RunIdentity): Promise<Checkpoint> {
  const {global_step: step, settings, base_model: baseModel, data_position, log_history} = await readState(folder);
  if (run !== undefined) {
    checkSameRun(folder, {settings, baseModel}, run);
  }
  const state = {settings, baseModel, position: data_position, logHistory: log_history};
  const optimizer = {[Symbol.asyncIterator]: () => readTensors(join(folder, OPTIMIZER_FILE))};
  return {folder, step, state, optimizer};
}

async function readState(folder: string): Promise<StateFile> {
  const path = join(folder, STATE_FILE);
  const state = parseJson(path, await readFile(path, 'utf8')) as Partial<StateFile> | null;
  if (state?.format !== FORMAT || state.format_version !== FORMAT_VERSION) {
    const got = `'${state?.format}' ${state?.format_version}`;
    throw new Error(`${path} should be of the format '${FORMAT}' ${FORMAT_VERSION}, got ${got}: another program's?`);
  }
  for (const field of ['settings', 'base_model', 'data_position', 'log_history', 'files'] as const) {
    if (typeof state[field] !== 'object' || state[field] === null) {
      throw new Error(`${path} lacks ${field}.`);
    }
  }
  return state as StateFile;
}

function parseJson(path: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${path} is not JSON: ${(error as Error).message}`);
  }
}

async function* readTensors(path: string): AsyncGenerator<[string, HostTensor]> {
  const file = await openSafetensors(path);
  try {
    for (const name of file.entries.keys()) {
      yield [name, await file.read(name)];
    }
  } finally {
    await file.close();
  }
}

function checkSameRun(folder: string, there: RunIdentity, here: RunIdentity): void {
  if (there.baseModel.fingerprint !== here.baseModel.fingerprint) {
    const describe = ({baseModel}: RunIdentity): string =>
      `${baseModel.origin} (${baseModel.fingerprint.slice(0, 12)})`;
    throw new Error(
      `${folder} is a checkpoint of another model: ${describe(there)}, but this run trains ${describe(here)}. ` +
        'Give the same model, or another output folder.',
    );
  }
  const names = new Set([...Object.keys(there.settings), ...Object.keys(here.settings)]);
  const text = (value: unknown): string => JSON.stringify(value) ?? 'unset';
  const differences = [...names]
    .map((name) => ({name, was: text(there.settings[name]), is: text(here.settings[name])}))
    .filter(({was, is}) => was !== is)
    .map(({name, was, is}) => `${name} was ${was} and is ${is}`);
  if (differences.length > 0) {
    throw new Error(
      `${folder} is a checkpoint of a run with other settings: ${differences.join('; ')}. ` +
        'Give the same settings to resume it, or another output folder.',
    );
  }
}

/**
 * Identifies a model: SHA-256 over the configuration, the weights of the first layer and the final norm. Training or
 * merging an adapter changes the first layer too, and reading all weights of a large model takes long.
 */
export async function fingerprint(model: Pick<ModelFiles, 'config' | 'read'>): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(model.config));
  for (const name of weightShapes(model.config).keys()) {
    if (name.startsWith('model.layers.0.') || name === 'model.norm.weight') {
      const {data} = await model.read(name);
      hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    }
  }
  return hash.digest('hex');
}
