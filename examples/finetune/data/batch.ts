/** @file Rows on the device: tokens, labels, the position of every answer, and the mask that keeps samples apart. */
import * as tf from '@tensorflow/tfjs';
import type {ContextParallelPlan} from '../../../src/distributed/context_parallel.js';
import type {ProcessGroup} from '../../../src/distributed/process_group.js';
import {type FlashMask, masks} from '../../../src/entries/index.js';
import type {Tokens} from '../model/llama.js';
import {IGNORED, type Row, type Sample, usedTokens} from './sample.js';

/** An answer within the flattened `B · T` positions of a batch. */
export interface BatchAnswer {
  start: number;
  /** Exclusive end. */
  end: number;
  /** Index into `Batch.samples`. */
  sample: number;
}

/** Ranks that share rows. */
export interface SharedRows {
  team: ProcessGroup;
  /** Which of them has which rows, with the mask of a window. */
  plan: (window: number | null) => ContextParallelPlan;
  /** The position of the last token of each answer among those of this rank, or -1. */
  ends: number[];
}

/** Packed rows of `T` tokens each. `dispose()` frees the tensors on the device. */
export interface Batch extends Tokens {
  /** `[B · T]`: the token to be predicted at each position, or `IGNORED`. */
  labels: Int32Array;
  /** Sorted by position; within a sample the best answer is first. */
  answers: BatchAnswer[];
  /** `id` is the record's index in its file, `answers` are indices into `Batch.answers`. */
  samples: {id: number; answers: number[]}[];
  /** Tokens that are not padding. */
  tokens: number;
  /** Positions that have a label. */
  labelled: number;
  /**
   * Visibility: tokens see their own document, or their question and their own answer, up to themselves. Made once per
   * window.
   *
   * @param window Keys that a query sees, itself included; null for all.
   * @throws Error if the window is shorter than a question with its answer: see the layout 'separate' of
   *   `encodeComparison`.
   */
  mask(window: number | null): FlashMask;
  /** The ranks that share the rows, if these are one rank's part of them. Masks are those of whole rows. */
  shared?: SharedRows;
  dispose(): void;
}

/**
 * Uploads rows as one batch, each padded to `rowTokens`.
 *
 * @throws Error without rows, and for a row longer than `rowTokens`.
 */
export function toBatch(rows: readonly Row[], rowTokens: number): Batch {
  checkRows(rows, rowTokens);
  const stack = (field: 'tokens' | 'positions' | 'labels', padding: number): Int32Array => {
    const all = new Int32Array(rows.length * rowTokens).fill(padding);
    eachSample(rows, rowTokens, (sample, offset) => all.set(sample[field], offset));
    return all;
  };
  const ids = tf.tensor2d(stack('tokens', 0), [rows.length, rowTokens], 'int32');
  const labels = stack('labels', IGNORED);
  return {
    ids,
    positions: stack('positions', 0),
    labels,
    ...locateAnswers(rows, rowTokens),
    tokens: rows.reduce((sum, row) => sum + usedTokens(row), 0),
    labelled: labels.reduce((sum, label) => sum + (label === IGNORED ? 0 : 1), 0),
    mask: masksOf(rows, rowTokens),
    dispose: () => ids.dispose(),
  };
}

function checkRows(rows: readonly Row[], rowTokens: number): void {
  if (rows.length === 0) throw new Error('A batch needs at least one row, got none.');
  rows.forEach((row, i) => {
    const used = usedTokens(row);
    if (row.samples.length > 0 && used <= rowTokens) return;
    throw new Error(`Row ${i} of the batch must hold 1 to ${rowTokens} tokens, got ${used}. Pack for rows that long.`);
  });
}

/** Calls `visit` with every sample and the flattened position of its first token. */
function eachSample(rows: readonly Row[], rowTokens: number, visit: (sample: Sample, offset: number) => void): void {
  rows.forEach(({samples}, b) => {
    let offset = b * rowTokens;
    for (const sample of samples) {
      visit(sample, offset);
      offset += sample.tokens.length;
    }
  });
}

function locateAnswers(rows: readonly Row[], rowTokens: number): Pick<Batch, 'answers' | 'samples'> {
  const answers: BatchAnswer[] = [];
  const samples: Batch['samples'] = [];
  eachSample(rows, rowTokens, (sample, offset) => {
    const indices = sample.answers.map(({start, end}) => {
      return answers.push({start: offset + start, end: offset + end, sample: samples.length}) - 1;
    });
    samples.push({id: sample.id, answers: indices});
  });
  return {answers, samples};
}

function masksOf(rows: readonly Row[], rowTokens: number): Batch['mask'] {
  const groups = rows.map(({samples}) => samples.map(({parts}) => parts));
  const documents = groups.every((row) => row.every(isDocuments));
  const longest = Math.max(...groups.flat().map(longestText));
  const made = new Map<number | null, FlashMask>();
  const make = (window: number | null): FlashMask => {
    if (window === null) return unlimitedMask(groups, documents, rowTokens);
    if (!documents) throw new Error(windowTooShort(window, longest));
    return windowedMask(mask(null), window);
  };
  const mask = (window: number | null): FlashMask => {
    const key = window === null || window >= longest ? null : window;
    const found = made.get(key) ?? make(key);
    made.set(key, found);
    return found;
  };
  return mask;
}

/** Whether the parts are documents that share nothing. */
function isDocuments(parts: readonly number[]): boolean {
  return parts.length === 1 || parts[0] === 0;
}

/** Tokens of the longest text in a sample: the question with its longest answer. */
function longestText([question, ...answers]: readonly number[]): number {
  return question + Math.max(0, ...answers);
}

function unlimitedMask(groups: number[][][], documents: boolean, rowTokens: number): FlashMask {
  if (!documents) return masks.sharedQuestion(groups, {padTo: rowTokens});
  const lengths = groups.map((row) => row.flat().filter((length) => length > 0));
  return masks.causalDocument(lengths, {padTo: rowTokens});
}

/** The causal document mask `mask`, with each key j also hidden from the queries from j + window on. */
function windowedMask({bounds, batch, keyLength}: FlashMask, window: number): FlashMask {
  const starts = bounds!.map((end, i) => Math.min(end, (i % keyLength) + window));
  const shape = [batch, 1, keyLength, 1];
  return masks.fromStartEndRowIndices(starts, {causal: true, shape, name: 'slidingWindowDocument'});
}

/** In the row the second answer is farther from the question than its positions say. */
function windowTooShort(window: number, longest: number): string {
  return (
    `Answers cannot share a question of a model whose sliding window of ${window} tokens is shorter than a question with its ` +
    `answer, here ${longest} tokens. Encode comparisons in the layout 'separate', or give at most ${window} tokens a sample.`
  );
}
