/**
 * @file The masks that all benchmarks time, by name and length. The documents packed in a row come from one of several
 * sources: `paper` has the masks of the FlashMask paper, figure 1(b), as its benchmark draws them (arXiv 2410.01359);
 * `table` those of the table of masks; `cuda` those of bench/cuda/masks.py; a number stands for that many documents of
 * equal length.
 *
 * Document masks are exact here. Those of the published benchmark are not quite (docs/masks.md).
 */
import {masks, type FlashMask} from '../src/entries/index.js';
import {randomInteger, seededRandom} from '../src/mask/builders/random.js';
import {maskTable} from '../test/support/mask_table.js';
import lengths from './masks.json' with {type: 'json'};

export type Source = 'paper' | 'table' | 'cuda' | number;

type Builder = (N: number) => FlashMask;

/** Answers to a question in the shared-question mask: 2 to 6, as in the paper. */
const FEWEST_ANSWERS = 2;
const MOST_ANSWERS = 6;
const BUCKETS = 16;
const GLOBAL_TOKENS = 16;
const SEED = 1;

/** Lengths of the same proportions that sum to N. */
function scaled(parts: readonly number[], N: number): number[] {
  const total = parts.reduce((a, b) => a + b);
  const endOf = (i: number): number => {
    const whole = parts.slice(0, i).reduce((a, b) => a + b, 0);
    return Math.floor((2 * N * whole + total) / (2 * total));
  };
  return parts.map((_, i) => endOf(i + 1) - endOf(i));
}

/** Splits N tokens into `count` lengths, all about equal. */
export const equal = (count: number, N: number): number[] =>
  Array.from({length: count}, (_, i) => Math.floor(((i + 1) * N) / count) - Math.floor((i * N) / count));

/** Documents packed in a row: those published for the nearest length below N, or for the shortest, scaled to N. */
function published(N: number): {length: number[]; prefix: number[]; dropped: number[]} {
  const {length, prefix, dropped} = N < 32768 ? lengths.published[8192] : lengths.published[32768];
  const stretched = scaled(length, N);
  return {length: stretched, prefix: prefix.map((p, i) => Math.floor((p * stretched[i]) / length[i])), dropped};
}

/** Each document as a question and answers, all about equally long. */
function sharedQuestion(N: number): FlashMask {
  const random = seededRandom(SEED);
  const parts = (): number => 1 + randomInteger(random, FEWEST_ANSWERS, MOST_ANSWERS + 1);
  return masks.sharedQuestion(published(N).length.map((length) => scaled(Array<number>(parts()).fill(1), length)));
}

function qkSparse(N: number): FlashMask {
  const {length, dropped} = published(N);
  const ends = length.map((_, i) => length.slice(0, i + 1).reduce((a, b) => a + b));
  const spans = ends.map((end, i): [number, number] => [end - length[i], end]);
  return masks.qkSparse(N, spans.filter((_, i) => dropped[i] === 1)); // prettier-ignore
}

/** The paper does not describe its buckets. Here are 16, drawn evenly; a token's query and key have the same hash. */
function hashSparse(N: number): FlashMask {
  const random = seededRandom(SEED);
  return masks.hashSparse(Array.from({length: N}, () => randomInteger(random, 0, BUCKETS)));
}

const windowOf = (N: number): number => Math.max(1, Math.floor(N / 16));

/** Full attention, then the twelve in the paper's order. */
const paper = {
  full: (N) => masks.full(N),
  causal: (N) => masks.causal(N),
  slidingWindow: (N) => masks.slidingWindow(N, windowOf(N)),
  causalDocument: (N) => masks.causalDocument(published(N).length),
  document: (N) => masks.document(published(N).length),
  sharedQuestion,
  globalSlidingWindow: (N) => masks.globalSlidingWindow(N, windowOf(N), Math.min(GLOBAL_TOKENS, N)),
  causalBlockwise: (N) => masks.causalBlockwise(published(N).length),
  prefixLmCausal: (N) => masks.prefixLmCausal(N, Math.floor(N / 2)),
  prefixLmDocument: (N) => masks.prefixLmDocument(published(N).length, published(N).prefix),
  qkSparse,
  hashSparse,
  randomEviction: (N) => masks.randomEviction(N, Math.max(1, Math.floor(N / 2)), {seed: SEED}),
} satisfies Record<string, Builder>;

export const paperMasks = Object.keys(paper);

/** A question, a tenth of its document, with two answers. */
function questionAndAnswers(length: number): number[] {
  const question = Math.max(1, Math.floor(length / 10));
  const first = Math.floor((length - question) / 2);
  return [question, first, length - question - first];
}

const documentsOf = (N: number): number[] => scaled(lengths.documents, N);

/** Spans of every third document. */
function thirdDocuments(N: number): [start: number, end: number][] {
  let end = 0;
  const spans = documentsOf(N).map((length): [number, number] => [end, (end += length)]);
  return spans.filter((_, i) => i % 3 === 1);
}

const {full, causal, slidingWindow, prefixLmCausal, randomEviction} = paper;
const cuda: Record<string, Builder> = {
  full, causal, slidingWindow, prefixLmCausal, hashSparse, randomEviction,
  causalDocument: (N) => masks.causalDocument(documentsOf(N)),
  document: (N) => masks.document(documentsOf(N)),
  sharedQuestion: (N) => masks.sharedQuestion(scaled(lengths.questions, N).map(questionAndAnswers)),
  globalSlidingWindow: (N) => masks.globalSlidingWindow(N, windowOf(N) - 1, windowOf(N)),
  causalBlockwise: (N) => masks.causalBlockwise(documentsOf(N)),
  prefixLmDocument: (N) => masks.prefixLmDocument(documentsOf(N), documentsOf(N).map((length) => Math.floor(length / 4))),
  qkSparse: (N) => masks.qkSparse(N, thirdDocuments(N)),
}; // prettier-ignore

const table: Record<string, Builder> = Object.fromEntries(
  maskTable.map(({name, build}) => [name, (N: number) => build(N, seededRandom(SEED))]),
);

const isPacked = (name: string): name is 'causalDocument' | 'document' =>
  name === 'causalDocument' || name === 'document';

/** @throws Error if the source has no mask of this name. */
export function maskOf(name: string, N: number, source: Source): FlashMask {
  if (typeof source === 'number' && isPacked(name)) return masks[name](equal(source, N));
  const builders: Record<string, Builder> = source === 'paper' ? paper : source === 'cuda' ? cuda : table;
  if (!(name in builders))
    throw new Error(`bench: masks must be of ${Object.keys(builders).join(', ')}, got '${name}'.`);
  return builders[name](N);
}
