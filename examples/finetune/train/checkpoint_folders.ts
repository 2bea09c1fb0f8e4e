/**
 * @file The folders of checkpoints in the output of a run. Users keep other things there, checkpoints of other programs
 * too. So a folder is deleted only if its content proves that this application made it, and only files that it wrote.
 */
import {randomBytes} from 'node:crypto';
import {existsSync} from 'node:fs';
import {mkdir, readdir, rename, rm, rmdir} from 'node:fs/promises';
import {join} from 'node:path';
import {readJsonFile} from '../read_file.js';
import {MODEL_FILES, OPTIMIZER_FILE, STATE_FILE, type SavedState, readState} from './checkpoint_state.js';
import {writeJson} from './durable_files.js';

/** In a folder that is being written: the first file to come and the last to go. */
const MARK_FILE = 'unfinished.json';
const MARK = {format: 'tfjs-flashmask checkpoint, unfinished'};
/** Names of folders during a write or a deletion. */
const TEMPORARY = /^\.checkpoint-\d+\.[0-9a-f]{16}\.(new|old)$/;
const OURS: ReadonlySet<string> = new Set([MARK_FILE, STATE_FILE, OPTIMIZER_FILE, ...MODEL_FILES.flat()]);
/** A file of ours under the name that it has until it is whole. */
const PART = /\.\d+\.tmp$/;

export function checkpointFolder(outputFolder: string, step: number): string {
  return join(outputFolder, `checkpoint-${step}`);
}

/** Steps of the folders that have a checkpoint's name, the latest first. */
export async function stepsIn(outputFolder: string): Promise<number[]> {
  const steps = (await namesIn(outputFolder))
    .map((name) => /^checkpoint-([1-9]\d*)$/.exec(name)?.[1])
    .filter((step) => step !== undefined)
    .map(Number);
  return steps.filter(Number.isSafeInteger).sort((a, b) => b - a);
}

/** Paths of the folders that a stopped process left. */
export async function temporaryFolders(outputFolder: string): Promise<string[]> {
  return (await namesIn(outputFolder)).filter((name) => TEMPORARY.test(name)).map((name) => join(outputFolder, name));
}

async function namesIn(folder: string): Promise<string[]> {
  return existsSync(folder) ? readdir(folder) : [];
}

/** Makes a folder for a checkpoint that is not whole yet. */
export async function makeTemporary(outputFolder: string, step: number): Promise<string> {
  const folder = temporaryName(outputFolder, step, 'new');
  await mkdir(folder);
  await writeJson(join(folder, MARK_FILE), MARK);
  return folder;
}

/** Gives a whole checkpoint its name. */
export async function giveName(temporary: string, outputFolder: string, step: number): Promise<string> {
  await rm(join(temporary, MARK_FILE));
  const folder = checkpointFolder(outputFolder, step);
  await rename(temporary, folder);
  return folder;
}

/** The reason why a folder is not a checkpoint of the run that may be deleted; null if it is one. */
export async function notOfRun(folder: string, run: string | null): Promise<string | null> {
  let state: SavedState;
  try {
    state = await readState(folder);
  } catch (error) {
    return (error as Error).message.replace(/\.$/, '');
  }
  if (run !== null && state.run !== run) return 'it is of another run';
  const known = [STATE_FILE, ...Object.keys(state.files)];
  const [other] = (await readdir(folder)).filter((name) => !known.includes(name));
  return other === undefined ? null : `it also holds ${other}`;
}

/** Deletes a checkpoint for which `notOfRun` is null. A half-deleted one cannot be mistaken for a checkpoint. */
export async function discard(outputFolder: string, step: number): Promise<void> {
  const leaving = temporaryName(outputFolder, step, 'old');
  await rename(checkpointFolder(outputFolder, step), leaving);
  await removeFiles(leaving);
}

/** Deletes the temporary folders of earlier processes. Folders that hold anything else stay. */
export async function removeTemporary(outputFolder: string): Promise<void> {
  for (const folder of await temporaryFolders(outputFolder)) {
    const names = await readdir(folder);
    const known = names.every((name) => OURS.has(name.replace(PART, '')));
    if (known && (names.length === 0 || (await isMarked(folder)))) await removeFiles(folder);
  }
}

async function isMarked(folder: string): Promise<boolean> {
  const mark = await readJsonFile(join(folder, MARK_FILE)).catch(() => null);
  return JSON.stringify(mark) === JSON.stringify(MARK) || (await notOfRun(folder, null)) === null;
}

/** Deletes the files of a folder, last those that prove whose it is, and the folder. */
async function removeFiles(folder: string): Promise<void> {
  const last = [STATE_FILE, MARK_FILE];
  const names = await readdir(folder);
  const order = [...names.filter((name) => !last.includes(name)), ...last.filter((name) => names.includes(name))];
  for (const name of order) await rm(join(folder, name));
  await rmdir(folder);
}

function temporaryName(outputFolder: string, step: number, kind: 'new' | 'old'): string {
  return join(outputFolder, `.checkpoint-${step}.${randomBytes(8).toString('hex')}.${kind}`);
}
