/**
 * @file The masks of the FlashMask paper, figure 1(b), as its benchmark draws them: windows of N / 16, and the documents of its published
 * samples (arXiv 2410.01359). Document masks are true ones, which those of the published benchmark are not quite (docs/masks.md).
 */
import {masks, type FlashMask} from '../../src/entries/index.js';
import {randomInteger, seededRandom} from '../../src/mask/builders/random.js';
import {scaled} from '../native_masks.js';
import published from './document_lengths.json' with {type: 'json'};

/** Documents packed in a row, as the paper's benchmark drew them. */
interface Sample {
  /** Tokens of each document. */
  length: number[];
  /** Of those, the prefix that the whole document sees. */
  prefix: number[];
  /** Whether its queries and keys are dropped in the QK-sparse mask: 0 or 1. */
  dropped: number[];
}

/** Of the five samples of a length, the one with the middle number of documents: 5 in 8192 tokens, 12 in 32768. */
const MIDDLE = 2;

/** Answers to a question in the shared-question mask: 2 to 6, as in the paper. */
const FEWEST_ANSWERS = 2;
const MOST_ANSWERS = 6;

const BUCKETS = 16;
const GLOBAL_TOKENS = 16;
const SEED = 1;

/** The sample of the published length that is nearest below N, or of the shortest one, stretched to N tokens. */
function sampleOf(N: number): Sample {
  const samples: Record<string, Sample[]> = published;
  const lengths = Object.keys(samples).map(Number);
  const nearest = Math.max(Math.min(...lengths), ...lengths.filter((length) => length <= N));
  const {length, prefix, dropped} = samples[String(nearest)][MIDDLE];
  const stretched = scaled(length, N);
  return {length: stretched, prefix: prefix.map((p, i) => Math.floor((p * stretched[i]) / length[i])), dropped};
}

/** A document as a question and answers, all about equally long. */
function questionAndAnswers(length: number, answers: number): number[] {
  return scaled(Array<number>(answers + 1).fill(1), length);
}

function sharedQuestion(N: number): FlashMask {
  const random = seededRandom(SEED);
  const answers = (): number => randomInteger(random, FEWEST_ANSWERS, MOST_ANSWERS + 1);
  return masks.sharedQuestion(sampleOf(N).length.map((length) => questionAndAnswers(length, answers())));
}

function qkSparse(N: number): FlashMask {
  const {length, dropped} = sampleOf(N);
  const ends = length.map((_, i) => length.slice(0, i + 1).reduce((a, b) => a + b));
  const spans = ends.map((end, i): [number, number] => [end - length[i], end]);
  return masks.qkSparse(
    N,
    spans.filter((_, i) => dropped[i] === 1),
  );
}

/** The paper says nothing of its buckets: 16 here, drawn evenly, one hash for a token's query and key. */
function hashSparse(N: number): FlashMask {
  const random = seededRandom(SEED);
  return masks.hashSparse(Array.from({length: N}, () => randomInteger(random, 0, BUCKETS)));
}

const windowOf = (N: number): number => Math.max(1, Math.floor(N / 16));

/** Full attention, then the twelve in the paper's order: masks of N tokens. */
export const paperMasks = {
  full: (N) => masks.full(N),
  causal: (N) => masks.causal(N),
  slidingWindow: (N) => masks.slidingWindow(N, windowOf(N)),
  causalDocument: (N) => masks.causalDocument(sampleOf(N).length),
  document: (N) => masks.document(sampleOf(N).length),
  sharedQuestion,
  globalSlidingWindow: (N) => masks.globalSlidingWindow(N, windowOf(N), Math.min(GLOBAL_TOKENS, N)),
  causalBlockwise: (N) => masks.causalBlockwise(sampleOf(N).length),
  prefixLmCausal: (N) => masks.prefixLmCausal(N, Math.floor(N / 2)),
  prefixLmDocument: (N) => masks.prefixLmDocument(sampleOf(N).length, sampleOf(N).prefix),
  qkSparse,
  hashSparse,
  randomEviction: (N) => masks.randomEviction(N, Math.max(1, Math.floor(N / 2)), {seed: SEED}),
} satisfies Record<string, (N: number) => FlashMask>;

export type PaperMask = keyof typeof paperMasks;

export const paperMaskNames = Object.keys(paperMasks) as PaperMask[];
