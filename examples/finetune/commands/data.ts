/** @file The data of a run: rows for its steps, held-out batches, and the number of steps in its epochs. */
import {createHash} from 'node:crypto';
import {existsSync, statSync} from 'node:fs';
import {type Batch, toBatch} from '../data/batch.js';
import {checkFileType} from '../data/file_type.js';
import {type Position, type RowSettings, type RowStatistics, RowSource} from '../data/rows.js';
import type {Row} from '../data/sample.js';
import type {ChatTokenizer} from '../data/tokenizer.js';
import type {Io} from '../io.js';
import type {LlamaConfig} from '../model/config.js';
import {isDataset, openDataset} from '../weights/pypi.js';
import type {TrainOptions} from './train_options.js';

/** How many problems of the data to print. Of further ones only the number is printed. */
const PROBLEMS_SHOWN = 3;

export async function dataPath(name: string, io: Io): Promise<string> {
  if (existsSync(name)) {
    // What is no plain file has an error of its own, and to open a pipe would wait.
    if (statSync(name).isFile()) checkFileType(name);
    return name;
  }
  if (!isDataset(name)) {
    throw new Error(`--data: there is no ${name}. Give a .jsonl or .json file, alpaca_en_demo or dpo_en_demo.`);
  }
  return openDataset(name, {io});
}

/** The settings from which a run's rows are made. */
export function rowSettings(file: string, options: TrainOptions, config: LlamaConfig): RowSettings {
  const {rowTokens, tooLong, seed, objective, evalSamples} = options;
  if (options.maxTokens !== undefined && options.maxTokens > rowTokens) {
    throw new Error(
      `--max-tokens: samples of ${options.maxTokens} tokens do not fit rows of ${rowTokens}. Give as many --row-tokens.`,
    );
  }
  const maxTokens = Math.min(options.maxTokens ?? rowTokens, rowTokens, config.maxPositions);
  const windows = config.slidingWindows.filter((window) => window !== null);
  // A window shorter than a sample excludes shared questions: distances of their answers in the row are not those of
  // the text.
  const fits = windows.every((window) => window >= maxTokens);
  return {
    file,
    objective,
    rowTokens,
    maxTokens,
    tooLong,
    layout: options.shareQuestions && fits ? 'shared' : 'separate',
    seed,
    firstRecord: evalSamples,
    // `countEpoch` has reported them. Training reads the same records again.
    onBad: options.skipBad ? () => {} : undefined,
  };
}

/** Statistics of an epoch, and the sha256 of its rows as the model gets them. */
export interface Epoch extends RowStatistics {
  sha256: string;
}

/** Counts a whole epoch. Reads the data once and reports the first problems that it skips. */
export async function countEpoch(settings: RowSettings, tokenizer: ChatTokenizer, io: Io): Promise<Epoch> {
  let told = 0;
  const tell = (problem: string): void => {
    if (++told <= PROBLEMS_SHOWN) io.warn(`Skipped  ${problem}`);
  };
  const source = new RowSource({...settings, epochs: 1, onBad: settings.onBad && tell}, tokenizer);
  const hash = createHash('sha256');
  for await (const {samples} of source) {
    for (const {tokens, positions, labels, parts} of samples) {
      [tokens, positions, labels, Int32Array.from(parts)].forEach((numbers) => hash.update(numbers));
    }
  }
  return {...source.statistics, sha256: hash.digest('hex')};
}

/** The held-out records as batches of one row. The caller disposes them. */
export async function heldOutBatches(
  settings: RowSettings,
  tokenizer: ChatTokenizer,
  records: number,
): Promise<Batch[]> {
  if (records === 0) {
    return [];
  }
  const batches: Batch[] = [];
  const held = {...settings, firstRecord: 0, endRecord: records, epochs: 1, seed: 0};
  for await (const row of new RowSource(held, tokenizer)) {
    batches.push(toBatch([row], settings.rowTokens));
  }
  return batches;
}

/** The batches of one step after another, and the position in the data after each step. */
export class BatchSource {
  private readonly source: RowSource;
  private readonly rows: AsyncIterator<Row>;

  constructor(
    private readonly settings: RowSettings,
    tokenizer: ChatTokenizer,
    /** Rows of a batch, and batches of a step. */
    private readonly step: {batchRows: number; batches: number},
    start?: Position,
  ) {
    this.source = new RowSource(settings, tokenizer, start);
    this.rows = this.source[Symbol.asyncIterator]();
  }

  get position(): Position {
    return this.source.position;
  }

  /** The caller disposes the batches. */
  async next(): Promise<Batch[]> {
    const batches: Batch[] = [];
    while (batches.length < this.step.batches) {
      const rows: Row[] = [];
      while (rows.length < this.step.batchRows) {
        rows.push((await this.rows.next()).value as Row);
      }
      batches.push(toBatch(rows, this.settings.rowTokens));
    }
    return batches;
  }

  async close(): Promise<void> {
    await this.rows.return?.();
  }
}
