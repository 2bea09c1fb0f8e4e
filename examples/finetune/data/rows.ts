/** @file Packed rows from a data file, epoch after epoch, as a pure function of file, settings and seed. */
import {shuffled, uniform} from '../random.js';
import {type Encoding, encodeComparison, encodeConversation, encodeText, encodeTextPair} from './encode.js';
import {type JsonItem, type SkipBad, readJsonItems} from './json_stream.js';
import {packSamples} from './packing.js';
import {type DataRecord, parseRecord} from './records.js';
import {type Row, type Sample, unlearn, usedTokens} from './sample.js';
import {shuffleStream} from './shuffle.js';
import type {ChatTokenizer} from './tokenizer.js';

export interface RowSettings {
  /** JSON lines, or a JSON list. */
  file: string;
  /** 'sft' reads conversations and plain texts; 'dpo' and 'rm' read comparisons and pairs of plain texts. */
  objective: 'sft' | 'dpo' | 'rm';
  rowTokens: number;
  /** Length of the longest sample, in tokens. Default `rowTokens`. */
  maxTokens?: number;
  /** What to do with longer samples. Default 'cut', which shortens them. */
  tooLong?: 'cut' | 'drop';
  /** How answers get their prompt. Default 'shared'. */
  layout?: 'shared' | 'separate';
  seed: number;
  /** The first record to read, from 0, and the exclusive end. Default: all. */
  firstRecord?: number;
  endRecord?: number;
  /** Default: without end. */
  epochs?: number;
  /** How many records the shuffle holds. Default 10000; never more than 64 MB of the file. */
  shuffleRecords?: number;
  /** How many samples are packed together. Default 500, as in PaddleNLP; never many more than a million tokens. */
  packSamples?: number;
  /**
   * Called with each item that is not a usable record, which is then left out. Without `onBad` the first one throws.
   */
  onBad?: SkipBad;
}

/** The next row to read. A checkpoint holds it, and a source that starts there continues with the same rows. */
export interface Position {
  epoch: number;
  /** Rows of the epoch that have been read. */
  row: number;
}

/** What happened to the records of the current epoch so far. Everything left out is counted here. */
export interface Counts {
  read: number;
  /** Number of samples. Of these, `cut` were too long and were shortened. */
  used: number;
  cut: number;
  droppedTooLong: number;
  /** Not JSON, of an unknown shape, or refused by the chat template. */
  droppedBad: number;
  noAnswer: number;
  /** Left out because the chat template does not write their calls of tools. */
  toolCallsNotWritten: number;
  /** Answers left out because another answer to their prompt has the same rank or score. */
  tiedAnswers: number;
  /**
   * Earlier answers that the chat template renders differently later in the conversation: they are read, not learned.
   */
  unlabelledAnswers: number;
  /** Samples with text that the tokenizer has no token for. That text is read, not learned. */
  withUnknown: number;
}

/** Statistics of the current epoch so far. */
export interface RowStatistics {
  counts: Readonly<Counts>;
  rows: number;
  samples: number;
  /** Tokens without padding. */
  tokens: number;
  /** Fraction of the rows that is not padding. */
  density: number;
}

interface ShuffledRecord {
  item: JsonItem;
  record: DataRecord;
  bytes: number;
}

/** Limits for the text in the shuffle and the tokens in the packing. They bound the memory where samples are long. */
const SHUFFLE_BYTES = 2 ** 26;
const PACK_TOKENS = 2 ** 20;

/**
 * Iterates over packed rows. Every epoch reads the file from its start through a shuffle. The samples are packed one
 * buffer at a time, and the rows of each buffer come in shuffled order. Memory holds these two buffers, whatever the
 * length of the file.
 *
 * @example
 * for await (const row of new RowSource({file, objective: 'sft', rowTokens: 512, seed: 0}, tokenizer))
 *   train(toBatch([row], 512));
 */
export class RowSource implements AsyncIterable<Row> {
  private next: Position;
  private counts = noCounts();
  private delivered = {rows: 0, samples: 0, tokens: 0};
  private firstProblem = '';

  /** @param start Position of an earlier source. The rows before it are made again but skipped. */
  constructor(
    private readonly settings: RowSettings,
    private readonly tokenizer: ChatTokenizer,
    start: Position = {epoch: 0, row: 0},
  ) {
    const {rowTokens, maxTokens = rowTokens} = settings;
    if (maxTokens > rowTokens) {
      throw new Error(`Samples of up to ${maxTokens} tokens do not fit rows of ${rowTokens}. Give longer rows.`);
    }
    this.next = {...start};
  }

  /** Position of the row after the last one given. */
  get position(): Position {
    return {...this.next};
  }

  get statistics(): RowStatistics {
    const {rows, samples, tokens} = this.delivered;
    const density = rows === 0 ? 0 : tokens / (rows * this.settings.rowTokens);
    return {counts: {...this.counts}, rows, samples, tokens, density};
  }

  /**
   * @throws Error for data that cannot be read, for an epoch without any sample (with all counts), and for a start
   *   after the last row of its epoch, which means that the data have changed.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<Row> {
    const {epochs = Infinity} = this.settings;
    while (this.next.epoch < epochs) {
      yield* this.epoch(this.next.epoch, this.next.row);
      this.next = {epoch: this.next.epoch + 1, row: 0};
    }
  }

  private async *epoch(epoch: number, skip: number): AsyncGenerator<Row> {
    this.counts = noCounts();
    this.delivered = {rows: 0, samples: 0, tokens: 0};
    for await (const row of this.rowsOfEpoch(epoch)) {
      this.delivered.rows++;
      this.delivered.samples += row.samples.length;
      this.delivered.tokens += usedTokens(row);
      if (this.delivered.rows <= skip) continue;
      this.next = {epoch, row: this.delivered.rows};
      yield row;
    }
    if (this.delivered.rows === 0) throw new Error(this.nothingToLearn());
    if (this.delivered.rows < skip) throw new Error(this.otherData(epoch, skip));
  }

  private async *rowsOfEpoch(epoch: number): AsyncGenerator<Row> {
    const {rowTokens, seed} = this.settings;
    // One generator per epoch, seeded by another generator, so that neighbouring seeds do not share epochs.
    const random = uniform(uniform(seed)() * 2 ** 32 + epoch);
    for await (const samples of this.buffers(this.samples(random))) {
      yield* shuffled(packSamples(samples, rowTokens), random);
    }
  }

  private async *buffers(samples: AsyncIterable<Sample>): AsyncGenerator<Sample[]> {
    const {packSamples: most = 500} = this.settings;
    let buffer: Sample[] = [];
    let tokens = 0;
    for await (const sample of samples) {
      buffer.push(sample);
      tokens += sample.tokens.length;
      if (buffer.length < most && tokens < PACK_TOKENS) continue;
      yield buffer;
      [buffer, tokens] = [[], 0];
    }
    if (buffer.length > 0) yield buffer;
  }

  private async *samples(random: () => number): AsyncGenerator<Sample> {
    const {file, firstRecord, endRecord, shuffleRecords = 10_000, onBad} = this.settings;
    const skipUnread: SkipBad = (problem) => {
      this.counts.read++;
      this.skip(problem);
    };
    const items = readJsonItems(file, {first: firstRecord, end: endRecord, onBad: onBad && skipUnread});
    const limits = {items: shuffleRecords, bytes: SHUFFLE_BYTES};
    for await (const {item, record} of shuffleStream(this.records(items), limits, random)) {
      this.counts.read++;
      const encoding = this.orBad(item, () => this.withoutUnknown(this.encode(item.index, record)));
      if (encoding === null) continue;
      this.count(encoding, record);
      if ('sample' in encoding) yield encoding.sample;
    }
  }

  private skip(problem: string): void {
    this.counts.droppedBad++;
    this.firstProblem ||= problem;
    this.settings.onBad?.(problem);
  }

  /** Reads records in the order of the file, so that the first wrong one is named before the shuffle. */
  private async *records(items: AsyncIterable<JsonItem>): AsyncGenerator<ShuffledRecord> {
    let isFirst = true;
    for await (const item of items) {
      const record = this.orBad(item, () => checkKind(parseRecord(item.value), this.settings.objective));
      if (record === null) {
        this.counts.read++;
        continue;
      }
      // The chat template may refuse all records. The others are encoded in shuffled order.
      if (isFirst && this.settings.onBad === undefined) this.orBad(item, () => this.encode(item.index, record));
      isFirst = false;
      yield {item, record, bytes: item.bytes};
    }
  }

  /** The result of `read`; null for a bad item that is left out. */
  private orBad<T>({place}: JsonItem, read: () => T): T | null {
    try {
      return read();
    } catch (error) {
      const problem = `${this.settings.file}, ${place}: ${(error as Error).message.replace(/\.$/, '')}.`;
      if (this.settings.onBad === undefined) {
        throw new Error(`${problem} Fix it, or leave out such items with --skip-bad.`, {cause: error});
      }
      this.skip(problem);
      return null;
    }
  }

  private encode(index: number, record: DataRecord): Encoding {
    const {rowTokens, maxTokens = rowTokens, tooLong = 'cut', layout = 'shared'} = this.settings;
    const comparison = {maxTokens, tooLong, layout, objective: this.settings.objective as 'dpo' | 'rm'};
    switch (record.kind) {
      case 'conversation':
        return encodeConversation(index, record.messages, this.tokenizer, comparison);
      case 'text':
        return encodeText(index, record.text, this.tokenizer, comparison);
      case 'texts':
        return encodeTextPair(index, record, this.tokenizer, comparison);
      case 'comparison':
        // A single answer cannot be compared.
        return record.answers.length < 2
          ? {dropped: 'no answer'}
          : encodeComparison(index, record, this.tokenizer, comparison);
    }
  }

  /** Drops the mark of unknown text from the labels; otherwise a model would learn to write it. */
  private withoutUnknown(encoding: Encoding): Encoding {
    const {unknownTokenId: unknown} = this.tokenizer;
    if (unknown === null || !('sample' in encoding)) return encoding;
    const {found, teaches} = unlearn(encoding.sample, unknown);
    if (found && !teaches && this.settings.objective === 'sft') return {dropped: 'no answer'};
    this.counts.withUnknown += found ? 1 : 0;
    return encoding;
  }

  private count(encoding: Encoding, record: DataRecord): void {
    this.counts.tiedAnswers += record.kind === 'comparison' ? record.tied : 0;
    if ('sample' in encoding) {
      this.counts.used++;
      this.counts.cut += encoding.cut ? 1 : 0;
      this.counts.unlabelledAnswers += encoding.unlabelledAnswers;
    } else if (encoding.dropped === 'too long') {
      this.counts.droppedTooLong++;
    } else if (encoding.dropped === 'tool calls not written') {
      this.counts.toolCallsNotWritten++;
    } else {
      this.counts.noAnswer++;
    }
  }

  private nothingToLearn(): string {
    const {file, firstRecord = 0, endRecord = Infinity} = this.settings;
    const {read, droppedTooLong, droppedBad, noAnswer, toolCallsNotWritten: calls} = this.counts;
    const unwritten = calls > 0 ? `, ${calls} with tool calls that the chat template does not write` : '';
    const why = `${droppedTooLong} were too long, ${droppedBad} bad, ${noAnswer} without an answer${unwritten}`;
    const first = this.firstProblem === '' ? '' : ` The first bad one: ${this.firstProblem}`;
    const behind = firstRecord > 0 ? ` after the first ${firstRecord}, which are held out` : '';
    const among = endRecord < Infinity ? ` in its first ${endRecord} records` : '';
    return `${file} has nothing to learn from${among}: of ${read} records${behind}, ${why}.${first}`;
  }

  private otherData(epoch: number, skip: number): string {
    const {rows} = this.delivered;
    const data = `${this.settings.file} now gives ${rows} rows in epoch ${epoch}`;
    return `${data}, but ${skip} of them were read before: the data or the settings have changed.`;
  }
}

/** Throws for a record that the objective cannot learn from. */
function checkKind(record: DataRecord, objective: RowSettings['objective']): DataRecord {
  const compares = record.kind === 'comparison' || record.kind === 'texts';
  if (objective === 'sft' && compares) throw new Error('sft learns conversations, but this is a comparison of answers');
  if (objective !== 'sft' && !compares) {
    const what = record.kind === 'text' ? 'a text' : 'a conversation with one';
    throw new Error(`${objective} compares answers, but this is ${what}`);
  }
  return record;
}

function noCounts(): Counts {
  return {
    read: 0,
    used: 0,
    cut: 0,
    droppedTooLong: 0,
    droppedBad: 0,
    noAnswer: 0,
    toolCallsNotWritten: 0,
    tiedAnswers: 0,
    unlabelledAnswers: 0,
    withUnknown: 0,
  };
}
