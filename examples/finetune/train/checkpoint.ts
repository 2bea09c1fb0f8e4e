/**
 * @file Checkpoints of a run: folders `checkpoint-<step>` with the model (a PEFT adapter or a whole Hugging Face
 * folder), the optimizer and `trainer_state.json`. A checkpoint is written under another name and renamed when it is
 * complete and on the disk. So the last good one survives if the process stops or the disk is full.
 */
import {existsSync} from 'node:fs';
import {lstat, readdir, rm} from 'node:fs/promises';
import {basename, join} from 'node:path';
import {sha256OfFile} from '../../../src/cli/files.js';
import {makeFolder} from '../../../src/node_webgpu/make_folder.js';
import type {HostTensor} from '../host_tensor.js';
import {processIo} from '../io.js';
import {type Tensors, openSafetensors, writeSafetensors} from '../weights/safetensors.js';
import {
  checkpointFolder,
  discard,
  giveName,
  makeTemporary,
  notOfRun,
  removeTemporary,
  stepsIn,
  temporaryFolders,
} from './checkpoint_folders.js';
import {OPTIMIZER_FILE, type RunIdentity, type TrainerState, readState, writeState} from './checkpoint_state.js';
import {syncFolder} from './durable_files.js';
import type {Fingerprint} from './fingerprint.js';

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

/**
 * Writes `<outputFolder>/checkpoint-<step>` in one step, then deletes the oldest checkpoints of the same run beyond
 * `saveLimit`. Replaces a checkpoint of the same run and step. What else lies in the folder stays.
 *
 * @param saveLimit How many checkpoints to keep, including this one; at least 1.
 * @param say Called with each folder that would have been deleted, but holds what the run did not write.
 * @returns the checkpoint's folder.
 * @throws when it cannot be written, for example because the disk is full. Earlier checkpoints are then unchanged.
 */
export async function saveCheckpoint(
  outputFolder: string,
  step: number,
  parts: CheckpointParts,
  saveLimit = Infinity,
  say: (text: string) => void = processIo.warn,
): Promise<string> {
  const {run} = parts.state;
  let unfinished: string | null = null;
  let folder: string;
  try {
    makeFolder(outputFolder);
    await removeTemporary(outputFolder);
    unfinished = await makeTemporary(outputFolder, step);
    await writeParts(unfinished, step, parts);
    await makeWay(outputFolder, step, run);
    folder = await giveName(unfinished, outputFolder, step);
    await syncFolder(outputFolder);
  } catch (error) {
    if (unfinished !== null) await rm(unfinished, {recursive: true, force: true});
    throw await failure(error as Error, outputFolder, step);
  }
  await removeOldest(outputFolder, step, {run, saveLimit, say});
  return folder;
}

async function writeParts(
  folder: string,
  step: number,
  {state, writeModel, optimizer}: CheckpointParts,
): Promise<void> {
  const before = await readdir(folder);
  await writeModel(folder);
  await writeSafetensors(join(folder, OPTIMIZER_FILE), optimizer.shapes, optimizer.tensors);
  const files: Record<string, string> = {};
  for (const name of (await readdir(folder)).filter((each) => !before.includes(each))) {
    files[name] = await sha256OfFile(join(folder, name));
  }
  await writeState(folder, {...state, step, files});
  await syncFolder(folder);
}

/** Deletes the checkpoint of the same run and step, if there is one. */
async function makeWay(outputFolder: string, step: number, run: string): Promise<void> {
  const folder = checkpointFolder(outputFolder, step);
  if (!existsSync(folder)) return;
  const other = await notOfRun(folder, run);
  if (other !== null) throw new Error(`${folder} is in the way and stays: ${other}. Move it elsewhere`);
  await discard(outputFolder, step);
}

async function removeOldest(
  outputFolder: string,
  step: number,
  {run, saveLimit, say}: {run: string; saveLimit: number; say: (text: string) => void},
): Promise<void> {
  let kept = 1;
  for (const other of (await stepsIn(outputFolder)).filter((each) => each < step)) {
    const folder = checkpointFolder(outputFolder, other);
    const reason = await notOfRun(folder, run);
    if (reason === null && kept++ >= saveLimit) await discard(outputFolder, other);
    else if (reason?.startsWith('it also holds')) say(`Kept ${folder}: ${reason}.`);
  }
}

async function failure(error: Error, outputFolder: string, step: number): Promise<Error> {
  const last = (await stepsIn(outputFolder)).at(0);
  const stays =
    last === undefined ? 'There is none yet to resume from.' : `checkpoint-${last} is there to resume from.`;
  const message = `Checkpoint ${step} could not be written to ${outputFolder}: ${error.message}. ${stays}`;
  return new Error(message, {cause: error});
}

/**
 * The folder of the latest whole checkpoint, or null if there is none. Every byte of it is checked.
 *
 * @param say Called with each unfinished or damaged checkpoint that is skipped, and the reason.
 */
export async function latestCheckpoint(
  outputFolder: string,
  say: (text: string) => void = processIo.warn,
): Promise<string | null> {
  for (const folder of await temporaryFolders(outputFolder)) {
    say(`Passed over ${folder}: the process was stopped before that was done.`);
  }
  for (const step of await stepsIn(outputFolder)) {
    const folder = checkpointFolder(outputFolder, step);
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
    const {files, step} = await readState(folder);
    if (basename(folder) !== `checkpoint-${step}`) return `it is the checkpoint of step ${step}`;
    for (const [name, expected] of Object.entries(files)) {
      const path = join(folder, name);
      if (!(await lstat(path)).isFile()) return `${name} is no file`;
      if ((await sha256OfFile(path)) !== expected) return `${name} is not as it was written`;
    }
    return null;
  } catch (error) {
    return (error as Error).message.replace(/\.$/, '');
  }
}

/**
 * Reads a checkpoint. Throws if there is none, or if another run made it, and names the difference.
 *
 * @param run The run to compare with. Default: no comparison.
 */
export async function loadCheckpoint(folder: string, run?: RunIdentity): Promise<Checkpoint> {
  const {step, ...state} = await readState(folder);
  if (run !== undefined) {
    checkSameRun(folder, state, run);
  }
  const optimizer = {[Symbol.asyncIterator]: () => readTensors(join(folder, OPTIMIZER_FILE))};
  const {settings, baseModel, position, logHistory, reference} = state;
  return {folder, step, state: {run: state.run, settings, baseModel, position, logHistory, reference}, optimizer};
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

/** Settings of a run's length. A resumed run may be longer or shorter than the run of the checkpoint was to be. */
const LENGTH: readonly string[] = ['steps', 'epochs', 'warmup-steps'];

/** Throws if a checkpoint is of another model or of other settings, and names the difference. */
export function checkSameRun(folder: string, there: RunIdentity, here: RunIdentity): void {
  const parts = Object.entries(here.baseModel.fingerprint) as [keyof Fingerprint, string][];
  const others = parts.filter(([part, is]) => there.baseModel.fingerprint[part] !== is).map(([part]) => part);
  if (others.length > 0) {
    throw new Error(
      `${folder} is a checkpoint of another model: ${there.baseModel.origin}, but this run trains ` +
        `${here.baseModel.origin}, with another ${others.join(', ')}. Give the same model, or another output folder.`,
    );
  }
  const names = new Set([...Object.keys(there.settings), ...Object.keys(here.settings)]);
  LENGTH.forEach((name) => names.delete(name));
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
