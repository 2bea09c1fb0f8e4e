/**
 * @file The output folder of a run: locked against other runs, and with nothing in the way that is not of this run.
 * What is there already and of no use to the run stays, under another name where the run needs the name.
 */
import {randomBytes} from 'node:crypto';
import {existsSync, readFileSync, renameSync, rmSync, rmdirSync} from 'node:fs';
import {join, parse} from 'node:path';
import {type Lock, describeHolder, tryLock} from '../../../src/cli/lock.js';
import {makeFolder} from '../../../src/node_webgpu/make_folder.js';
import {type Checkpoint, latestCheckpoint, loadCheckpoint} from './checkpoint.js';
import {checkpointFolder, discard, notOfRun, removeTemporary, stepsIn} from './checkpoint_folders.js';
import {METRICS_FILE, type MetricsRecord, isLogOf} from './metrics.js';

type Say = (text: string) => void;

const LOCK_FILE = '.lock';
/** What a run writes beside its checkpoints. */
export const REFERENCE_FILE = 'reference_log_probs.json';
const FILES = [METRICS_FILE, REFERENCE_FILE, 'loss.svg', 'rewards.svg', 'accuracy.svg', 'documentation.jsonl'];
/** Those of them that a run writes anew, also one that is resumed. */
const WRITTEN_ANEW = FILES.slice(0, -1);
/** A step of a large model on the CPU keeps the process from giving a sign of life for minutes. */
const STALE_MS = 10 * 60_000;

/** A folder that belongs to one process until `close`. */
export class OutputFolder {
  private constructor(
    readonly path: string,
    private readonly lock: Lock,
    /** Whether it was there before. */
    private readonly existed: boolean,
  ) {}

  /** Makes the folder if needed, and locks it. Throws if another process has it, or if it cannot be written. */
  static open(path: string): OutputFolder {
    const file = join(path, LOCK_FILE);
    const existed = existsSync(path);
    let lock: Lock | null;
    try {
      makeFolder(path);
      lock = tryLock(file, STALE_MS);
    } catch (error) {
      throw new Error(`--output: ${path} must be a folder that can be written: ${(error as Error).message}.`);
    }
    if (lock === null) {
      throw new Error(
        `--output: ${path} is in use by ${describeHolder(file)}. Wait for its end, or give another folder. If it has ` +
          `ended, delete ${file}.`,
      );
    }
    return new OutputFolder(path, lock, existed);
  }

  /** Gives the folder free. Removes it if it was made for nothing. */
  close(): void {
    this.lock.release();
    if (this.existed) return;
    try {
      rmdirSync(this.path);
    } catch {
      // It holds something, as it should.
    }
  }

  /** Throws if another process took the folder because this one seemed to be gone. Call it before writing. */
  checkHeld(): void {
    if (!this.lock.isHeld()) {
      throw new Error(`--output: ${this.path} was taken by ${describeHolder(join(this.path, LOCK_FILE))} meanwhile.`);
    }
  }

  /** The id of a new run. Throws if there are checkpoints. */
  async startRun(say: Say): Promise<string> {
    const latest = await latestCheckpoint(this.path, say);
    if (latest !== null) {
      throw new Error(`${latest} is there already. Go on with --resume, or give another --output.`);
    }
    const [step] = await stepsIn(this.path);
    if (step !== undefined) {
      const folder = checkpointFolder(this.path, step);
      throw new Error(`${folder} is there already, and nothing to go on from. Move it, or give another --output.`);
    }
    return randomBytes(16).toString('hex');
  }

  /** The latest whole checkpoint. Throws if there is none, or if what is not of its run would be in the way. */
  async resumeRun(say: Say): Promise<Checkpoint> {
    const latest = await latestCheckpoint(this.path, say);
    if (latest === null) {
      throw new Error(
        `--resume: there is no checkpoint in ${this.path}. Give the --output of the run, or leave out --resume.`,
      );
    }
    const checkpoint = await loadCheckpoint(latest);
    for (const step of await stepsIn(this.path)) {
      const folder = checkpointFolder(this.path, step);
      const other = await notOfRun(folder, checkpoint.state.run);
      if (other !== null && step > checkpoint.step) {
        throw new Error(`--resume: ${folder} would be in the way: ${other}. Move it elsewhere, then resume.`);
      }
      if (other !== null) say(`Kept     ${folder}: ${other}.`);
    }
    return checkpoint;
  }

  /**
   * Renames the metrics and charts that are not of this run.
   *
   * @param history The log of the checkpoint that a run goes on from; empty for a new run.
   */
  setAside(history: readonly MetricsRecord[], say: Say): void {
    if (history.length === 0) WRITTEN_ANEW.forEach((name) => keepAside(join(this.path, name), say));
    else if (!isLogOf(join(this.path, METRICS_FILE), history)) keepAside(join(this.path, METRICS_FILE), say);
  }

  /** Deletes the checkpoints of earlier runs, and the metrics and charts of the deleted ones. */
  async discardRuns(): Promise<void> {
    await removeTemporary(this.path);
    for (const step of await stepsIn(this.path)) {
      const folder = checkpointFolder(this.path, step);
      if ((await notOfRun(folder, null)) !== null) continue;
      const {logHistory} = (await loadCheckpoint(folder)).state;
      await discard(this.path, step);
      if (isLogOf(join(this.path, METRICS_FILE), logHistory)) {
        for (const name of FILES) rmSync(join(this.path, name), {force: true});
      }
    }
  }
}

/** What the process that has the folder wrote into its lock, which no other lock has; null where there is none. */
export function lockText(path: string): string | null {
  const file = join(path, LOCK_FILE);
  return existsSync(file) ? readFileSync(file, 'utf8') : null;
}

/** Renames a file of an earlier run, so that this one does not overwrite it. */
export function keepAside(path: string, say: Say): void {
  if (!existsSync(path)) return;
  const {dir, name, ext} = parse(path);
  let number = 1;
  while (existsSync(join(dir, `${name}.${number}${ext}`))) number++;
  const kept = join(dir, `${name}.${number}${ext}`);
  renameSync(path, kept);
  say(`Kept     ${path} of an earlier run as ${kept}`);
}
