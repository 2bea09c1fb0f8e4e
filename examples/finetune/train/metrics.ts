/**
 * @file The metrics of a run as JSON lines, one object per logged step, under the names of Hugging Face's TRL:
 * https://huggingface.co/docs/trl/sft_trainer#logged-metrics, and the pages of its DPO and reward trainers.
 */
import {appendFileSync, mkdirSync, renameSync, writeFileSync} from 'node:fs';
import {dirname} from 'node:path';

/**
 * The metrics of one step. Every objective: `global_step`, `epoch`, `loss`, `learning_rate`, `grad_norm`, `num_tokens`
 * (so far), and beyond TRL's: `tokens_per_second`, `packing_density`, `tile_sparsity`. SFT: `mean_token_accuracy`,
 * `entropy` (nats). DPO: `rewards/chosen`, `rewards/rejected`, `rewards/margins`, `rewards/accuracies`, and `chosen`
 * and `rejected` of `logps/` and `logits/`. Reward model: `accuracy`, `margin`, `min_reward`, `mean_reward`,
 * `max_reward`.
 */
export interface MetricsRecord {
  /** Optimizer steps done, including this one. */
  global_step: number;
  [name: string]: number;
}

/** A file of metrics. It also keeps them in memory for checkpoints and charts. */
export class MetricsLog {
  readonly records: MetricsRecord[];

  /**
   * Starts the file over with the records of the run so far: none for a fresh run, a checkpoint's `log_history` for a
   * resumed one. A resumed run repeats the steps after the checkpoint, which would otherwise be in the file twice.
   */
  constructor(
    private readonly file: string,
    history: readonly MetricsRecord[] = [],
  ) {
    this.records = [...history];
    mkdirSync(dirname(file), {recursive: true});
    const temporary = `${file}.${process.pid}.tmp`;
    writeFileSync(temporary, this.records.map(toLine).join(''));
    renameSync(temporary, file);
  }

  append(record: MetricsRecord): void {
    this.records.push(record);
    appendFileSync(this.file, toLine(record));
  }
}

function toLine(record: MetricsRecord): string {
  return `${JSON.stringify(record)}\n`;
}
