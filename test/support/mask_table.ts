/**
 * @file The table of masks: every builder, at any length, with its rule on single pairs, which does not use bounds.
 * Tests, benchmarks, docs and pictures use the table.
 */
import * as masks from '../../src/mask/builders/index.js';
import type {FlashMask} from '../../src/mask/flash_mask.js';
import {type Random, randomInteger, seededRandom} from '../../src/mask/builders/random.js';
import type {MaskBuilder} from '../../src/tf_layers/builder_mask.js';

/** Whether query row r sees key column j, in a batch row and head of the mask. */
export type VisibleRule = (r: number, j: number, batch?: number, head?: number) => boolean;

/** A mask with the rule it must follow. */
export interface MaskSample {
  mask: FlashMask;
  /** Follows from the meaning of the mask, not from its bounds, so it is the truth for tests. */
  visible: VisibleRule;
}

/** A row of the table. */
export interface MaskEntry {
  /** The builder's name in `masks`. */
  name: MaskBuilder;
  title: string;
  /** A sentence that says what a query sees. */
  description: string;
  /** Whether the builder itself takes S × S bytes, which rules out long sequences. */
  quadratic?: boolean;
  /** A mask of S tokens, drawn from `random` where it has something to draw. Any S of at least 1. */
  sample: (S: number, random: Random) => MaskSample;
  /** The mask of `sample`, without the rule. */
  build: (S: number, random: Random) => FlashMask;
}

function entry(row: Omit<MaskEntry, 'build'>): MaskEntry {
  return {...row, build: (S, random) => row.sample(S, random).mask};
}

/** Lengths of packed documents: 3 to 7 documents, or 10 to 15 in long rows, as in the paper's benchmark. */
function drawLengths(S: number, random: Random): number[] {
  const count = Math.min(S, S < 16384 ? randomInteger(random, 3, 8) : randomInteger(random, 10, 16));
  const weights = Array.from({length: count}, () => 0.4 + random());
  const whole = weights.reduce((a, b) => a + b);
  let weight = 0;
  let used = 0;
  return weights.map((w, i) => {
    weight += w;
    // Leaves at least one token for this document and for each following one.
    const end = Math.min(S - (count - 1 - i), Math.max(used + 1, Math.round((weight / whole) * S)));
    const length = i === count - 1 ? S - used : end - used;
    used += length;
    return length;
  });
}

/** The index of the part that each token belongs to. */
function partOfToken(lengths: readonly number[]): Int32Array {
  return Int32Array.from(lengths.flatMap((length, i) => Array<number>(length).fill(i)));
}

/** The place of each token within its part. */
function placeInPart(lengths: readonly number[]): Int32Array {
  return Int32Array.from(lengths.flatMap((length) => Array.from({length}, (_, i) => i)));
}

/** A split of `length` tokens into `parts` nearly equal ones. */
function splitEvenly(length: number, parts: number): number[] {
  return Array.from(
    {length: parts},
    (_, i) => Math.floor(((i + 1) * length) / parts) - Math.floor((i * length) / parts),
  );
}

/** A window of a sixteenth of the row, as in the paper's benchmark, but wide enough to be seen in short rows. */
function windowOf(S: number): number {
  return Math.max(1, Math.floor(S / 16), Math.min(4, S - 1));
}

const full = entry({
  name: 'full',
  title: 'Full',
  description: 'Every token sees every token.',
  sample: (S) => ({mask: masks.full(S), visible: () => true}),
});

const causal = entry({
  name: 'causal',
  title: 'Causal',
  description: 'Every token sees itself and those before it.',
  sample: (S) => ({mask: masks.causal(S), visible: (r, j) => j <= r}),
});

const slidingWindow = entry({
  name: 'slidingWindow',
  title: 'Sliding window',
  description: 'Every token sees the latest few, itself included.',
  sample: (S) => {
    const width = windowOf(S);
    return {mask: masks.slidingWindow(S, width), visible: (r, j) => j <= r && j > r - width};
  },
});

const causalDocument = entry({
  name: 'causalDocument',
  title: 'Causal document',
  description: 'Packed documents: every token sees its own document, up to itself.',
  sample: (S, random) => {
    const lengths = drawLengths(S, random);
    const doc = partOfToken(lengths);
    return {mask: masks.causalDocument(lengths), visible: (r, j) => j <= r && doc[r] === doc[j]};
  },
});

const document = entry({
  name: 'document',
  title: 'Document',
  description: 'Packed documents: every token sees the whole of its own document.',
  sample: (S, random) => {
    const lengths = drawLengths(S, random);
    const doc = partOfToken(lengths);
    return {mask: masks.document(lengths), visible: (r, j) => doc[r] === doc[j]};
  },
});

const sharedQuestion = entry({
  name: 'sharedQuestion',
  title: 'Shared question',
  description:
    'A question with several answers, for DPO and reward models: an answer sees its question and itself, and no other answer.',
  sample: (S, random) => {
    const groups = drawLengths(S, random).map((length) =>
      splitEvenly(length, Math.min(length, randomInteger(random, 3, 6))),
    );
    const group = partOfToken(groups.map((parts) => parts.reduce((a, b) => a + b)));
    const part = partOfToken(groups.flat());
    // The first part of each group is its question.
    const question = groups.flatMap((parts) => parts.map((_, i) => i === 0));
    const visible: VisibleRule = (r, j) =>
      j <= r && group[r] === group[j] && (part[r] === part[j] || question[part[j]]);
    return {mask: masks.sharedQuestion(groups), visible};
  },
});

const globalSlidingWindow = entry({
  name: 'globalSlidingWindow',
  title: 'Global + sliding window',
  description: 'A few global tokens see all and are seen by all; the others see their neighbours.',
  sample: (S) => {
    const globals = Math.min(16, Math.ceil(S / 8));
    const reach = windowOf(S);
    const visible: VisibleRule = (r, j) => r < globals || j < globals || Math.abs(r - j) <= reach;
    return {mask: masks.globalSlidingWindow(S, reach, globals), visible};
  },
});

const causalBlockwise = entry({
  name: 'causalBlockwise',
  title: 'Causal blockwise',
  description: 'In-context examples that see themselves only, and a last block that sees them all.',
  sample: (S, random) => {
    const lengths = drawLengths(S, random);
    const block = partOfToken(lengths);
    const visible: VisibleRule = (r, j) => j <= r && (block[r] === block[j] || block[r] === lengths.length - 1);
    return {mask: masks.causalBlockwise(lengths), visible};
  },
});

const prefixLmCausal = entry({
  name: 'prefixLmCausal',
  title: 'Prefix LM',
  description: 'All tokens see the prefix; those after it see each other causally.',
  sample: (S) => {
    const prefix = Math.floor(S / 2);
    return {mask: masks.prefixLmCausal(S, prefix), visible: (r, j) => j < prefix || j <= r};
  },
});

const prefixLmDocument = entry({
  name: 'prefixLmDocument',
  title: 'Prefix LM document',
  description: 'Packed documents, each with a prefix that its whole document sees.',
  sample: (S, random) => {
    const lengths = drawLengths(S, random);
    const prefixes = lengths.map((length) => Math.floor(length * (0.3 + 0.5 * random())));
    const doc = partOfToken(lengths);
    const place = placeInPart(lengths);
    const visible: VisibleRule = (r, j) => doc[r] === doc[j] && (j <= r || place[j] < prefixes[doc[j]]);
    return {mask: masks.prefixLmDocument(lengths, prefixes), visible};
  },
});

const qkSparse = entry({
  name: 'qkSparse',
  title: 'QK-sparse',
  description: 'Causal, with spans whose queries and keys are dropped for each other.',
  sample: (S, random) => {
    const lengths = drawLengths(S, random);
    const dropped = lengths.map((_, i) => i % 2 === 1 || random() < 0.2);
    const part = partOfToken(lengths);
    const ends = lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b));
    const spans = ends.map((end, i) => [end - lengths[i], end]).filter((_, i) => dropped[i]);
    const visible: VisibleRule = (r, j) => j <= r && !(part[r] === part[j] && dropped[part[j]]);
    return {mask: masks.qkSparse(S, spans), visible};
  },
});

const hashSparse = entry({
  name: 'hashSparse',
  title: 'Hash-sparse',
  description: 'Queries and keys sorted by hash: every query sees the keys of its bucket that came before it.',
  sample: (S, random) => {
    const buckets = Math.min(16, Math.ceil(S / 6));
    const draw = (): number[] => Array.from({length: S}, () => randomInteger(random, 0, buckets));
    const [queries, keys] = [draw(), draw()];
    // The buckets one after another, each in token order.
    const sorted = (hashes: number[]): number[] =>
      Array.from({length: buckets}, (_, bucket) => hashes.flatMap((hash, i) => (hash === bucket ? [i] : []))).flat();
    const [queryAt, keyAt] = [sorted(queries), sorted(keys)];
    const visible: VisibleRule = (r, j) => queries[queryAt[r]] === keys[keyAt[j]] && keyAt[j] <= queryAt[r];
    return {mask: masks.hashSparse(queries, keys), visible};
  },
});

const randomEviction = entry({
  name: 'randomEviction',
  title: 'Random eviction',
  description: 'A key-value cache of fixed size: every later token first evicts a key at random.',
  sample: (S, random) => {
    const keep = Math.max(1, Math.floor(S / 2));
    const seed = randomInteger(random, 0, 2 ** 31);
    let rows: Set<number>[] | undefined;
    const visible: VisibleRule = (r, j) => (rows ??= cachedKeys(S, keep, seed))[r].has(j);
    return {mask: masks.randomEviction(S, keep, {seed}), visible};
  },
});

/** The cached keys that each row sees. */
function cachedKeys(S: number, keep: number, seed: number): Set<number>[] {
  const random = seededRandom(seed);
  const rows: Set<number>[] = [];
  let cache: number[] = [];
  for (let r = 0; r < S; r++) {
    if (cache.length === keep) {
      const evicted = cache[Math.floor(random() * cache.length)];
      const last = cache[cache.length - 1];
      // The last key moves to the place of the evicted key, as in a cache that reuses its slots.
      cache = cache.map((key) => (key === evicted ? last : key)).slice(0, -1);
    }
    cache.push(r);
    rows.push(new Set(cache));
  }
  return rows;
}

const window = entry({
  name: 'window',
  title: 'Window on both sides',
  description: 'Every token sees itself, some tokens before it and fewer after it.',
  sample: (S) => {
    const left = windowOf(S);
    const right = Math.floor(left / 2);
    return {mask: masks.window(S, [left, right]), visible: (r, j) => j >= r - left && j <= r + right};
  },
});

const fromSegmentIds = entry({
  name: 'fromSegmentIds',
  title: 'Segment ids',
  description: 'Tokens of the same id see each other; padding sees nothing and is seen by none.',
  sample: (S, random) => {
    const lengths = drawLengths(S, random);
    const part = partOfToken(lengths);
    const ids = Array.from(part, (i) => (lengths.length > 1 && i === lengths.length - 1 ? -1 : i));
    return {mask: masks.fromSegmentIds(ids), visible: (r, j) => ids[r] === ids[j] && ids[r] >= 0};
  },
});

const fromDense = entry({
  name: 'fromDense',
  title: 'From a dense mask',
  description: 'A summary that sees all documents, which see themselves only; read from a matrix.',
  quadratic: true,
  sample: (S, random) => {
    const part = partOfToken(drawLengths(S, random));
    const visible: VisibleRule = (r, j) => part[r] === 0 || part[r] === part[j];
    const dense = Uint8Array.from({length: S * S}, (_, i) => Number(visible(Math.floor(i / S), i % S)));
    return {mask: masks.fromDense(dense, {shape: [S, S]}), visible};
  },
});

const fromStartEndRowIndices = entry({
  name: 'fromStartEndRowIndices',
  title: 'From row indices',
  description:
    'Frames of a video that see the frames just before them and all earlier key frames; from the bounds of a Paddle program.',
  sample: (S) => {
    const size = Math.max(1, Math.floor(S / 8));
    const frame = (i: number): number => Math.floor(i / size);
    const isKey = (j: number): boolean => frame(j) % 4 === 0;
    const visible: VisibleRule = (r, j) => frame(j) <= frame(r) && (frame(r) - frame(j) <= 1 || isKey(j));
    const indices = Int32Array.from({length: 2 * S}, (_, i) => {
      const start = frame(i >> 1) * size;
      const end = isKey(i >> 1) ? S : start + 2 * size;
      return i % 2 === 0 ? end : start;
    });
    return {mask: masks.fromStartEndRowIndices(indices, {causal: false, shape: [1, 1, S, 2]}), visible};
  },
});

/** All builders; those of the paper's figure 1(b) come first. */
export const maskTable: readonly MaskEntry[] = [
  full,
  causal,
  slidingWindow,
  causalDocument,
  document,
  sharedQuestion,
  globalSlidingWindow,
  causalBlockwise,
  prefixLmCausal,
  prefixLmDocument,
  qkSparse,
  hashSparse,
  randomEviction,
  window,
  fromSegmentIds,
  fromDense,
  fromStartEndRowIndices,
];
