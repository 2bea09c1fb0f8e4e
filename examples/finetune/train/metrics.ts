/**
 * @file The metrics of a run as JSON lines, one object per logged step, under the names of Hugging Face's TRL:
 * https://huggingface.co/docs/trl/sft_trainer#logged-metrics, and the pages of its DPO and reward trainers.
 */
import {appendFileSync, closeSync, lstatSync, openSync, readSync, renameSync, rmSync, writeFileSync} from 'node:fs';
import {dirname} from 'node:path';
import {makeFolder} from '../../../src/node_webgpu/make_folder.js';

/**
 * The metrics of one step. Every objective: `global_step`, `epoch`, `loss`, `learning_rate`, `grad_norm`, `num_tokens`
 * (so far), `eval_loss` after an evaluation, and beyond TRL's: `tokens_per_second`, `packing_density`, `tile_sparsity`.
 * SFT: `mean_token_accuracy`, `entropy` (nats). DPO: `rewards/chosen`, `rewards/rejected`, `rewards/margins`,
 * `rewards/accuracies`, and `chosen` and `rejected` of `logps/` and `logits/`. Reward model: `accuracy`, `margin`,
 * `min_reward`, `mean_reward`, `max_reward`.
 */
export interface MetricsRecord {
  /** Optimizer steps done, including this one. */
  global_step: number;
  [name: string]: number;
}

export const METRICS_FILE = 'metrics.jsonl';

/** A file of metrics. It also keeps them in memory for checkpoints and charts. */
export class MetricsLog {
  readonly records: MetricsRecord[];
  /** Whether the file has all records. */
  private whole = true;

  /**
   * Starts the file over with the records of the run so far: none for a fresh run, a checkpoint's `log_history` for a
   * resumed one. A resumed run repeats the steps after the checkpoint, which would otherwise be in the file twice.
   *
   * @param file Null keeps the records in memory alone.
   * @param warn Called once if the file cannot be written later on.
   */
  constructor(
    private readonly file: string | null,
    history: readonly MetricsRecord[] = [],
    private readonly warn: (text: string) => void = console.error,
  ) {
    this.records = [...history];
    if (file === null) return;
    makeFolder(dirname(file));
    this.rewrite(file);
  }

  /**
   * A full disk does not end the run: the checkpoints hold the records too. Once there is room again, the next call
   * writes the file whole.
   */
  append(record: MetricsRecord): void {
    this.records.push(record);
    const {file} = this;
    if (file === null) return;
    const was = this.whole;
    try {
      if (this.whole) appendFileSync(file, toLine(record));
      else this.rewrite(file);
      this.whole = true;
    } catch (error) {
      this.whole = false;
      if (was) this.warn(`${file} lacks steps until it can be written again: ${(error as Error).message}.`);
    }
  }

  private rewrite(file: string): void {
    const temporary = `${file}.${process.pid}.tmp`;
    try {
      writeFileSync(temporary, textOf(this.records));
      renameSync(temporary, file);
    } finally {
      rmSync(temporary, {force: true});
    }
  }
}

/**
 * Whether a file is the log of a run with these records: it may go on after them, or end in their middle. Nothing tells
 * that of a run without records.
 */
export function isLogOf(file: string, history: readonly MetricsRecord[]): boolean {
  const text = Buffer.from(textOf(history));
  if (text.length === 0 || !lstatSync(file, {throwIfNoEntry: false})?.isFile()) return false;
  const start = Buffer.alloc(text.length);
  const handle = openSync(file, 'r');
  try {
    const length = readSync(handle, start, 0, start.length, 0);
    return start.subarray(0, length).equals(text.subarray(0, length));
  } finally {
    closeSync(handle);
  }
}

function textOf(records: readonly MetricsRecord[]): string {
  return records.map(toLine).join('');
}

function toLine(record: MetricsRecord): string {
  return `${JSON.stringify(record)}\n`;
}
