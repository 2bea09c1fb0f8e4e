/**
 * @file Mask builders: those of arXiv 2410.01359, figure 1(b), and the conversions. Each writes a few bounds per key
 * column. `maskTable` (test/support/mask_table.ts) has the same masks as rules on single pairs.
 */
import {type Numbers, listOf, readLengths} from './arguments.js';
import {checkFlag, checkInteger, checkOptions, describe, fail} from '../../call/errors.js';
import {FlashMask} from '../flash_mask.js';
import {buildMask, clampTo, readSizes} from './build.js';
import {checkCount} from './limits.js';
import {isArray} from '../../call/values.js';

export {causalBlockwise, causalDocument, document, prefixLmDocument, sharedQuestion} from './packed.js';
export {fromDense, fromSegmentIds, fromStartEndRowIndices} from './conversions.js';
export {padding, segments} from './on_device.js';
export {hashSparse, randomEviction} from './selected.js';

/** Lengths that may differ between queries and keys. */
export interface QueryOptions {
  /**
   * Number of queries. They are the last tokens of the sequence: query r is at position r + length - queryLength, as in
   * decoding with a key-value cache. Default: as many as keys.
   */
  queryLength?: number;
}

/**
 * Every query sees every key.
 *
 * @param length Keys.
 * @param options `queryLength`, if there are not as many queries as keys.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.full(1024);
 * masks.full(1024, {queryLength: 256}); // the queries are the last 256 tokens
 */
export function full(length: number, options?: QueryOptions): FlashMask {
  const sizes = readQuerySizes('masks.full', length, options);
  return new FlashMask({name: 'full', ...sizes, vectors: 0});
}

/**
 * Every query sees the keys up to its own position.
 *
 * @param length Keys.
 * @param options `queryLength`, if there are not as many queries as keys.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.causal(4096);
 * masks.causal(4096, {queryLength: 1}); // one more token, with 4096 keys in the cache
 */
export function causal(length: number, options?: QueryOptions): FlashMask {
  const sizes = readQuerySizes('masks.causal', length, options);
  return new FlashMask({name: 'causal', ...sizes, causal: true, vectors: 0});
}

/**
 * Every query sees the `window` latest keys, its own included. Causal.
 *
 * @param length Keys.
 * @param window At least 1.
 * @param options `queryLength`, if there are not as many queries as keys.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.slidingWindow(4096, 512); // its own key and the 511 before it
 */
export function slidingWindow(length: number, window: number, options?: QueryOptions): FlashMask {
  const who = 'masks.slidingWindow';
  const {queryLength, keyLength} = readQuerySizes(who, length, options);
  checkInteger(who, 'window', window, 1);
  const offset = keyLength - queryLength;
  const sizes = {name: 'slidingWindow', queryLength, keyLength, causal: true, vectors: 1} as const;
  return buildMask(sizes, (j) => [clampTo(j - offset + window, queryLength)]);
}

function readQuerySizes(who: string, length: number, options: QueryOptions | undefined): ReturnType<typeof readSizes> {
  return readSizes(who, length, checkOptions(who, options, ['queryLength']).queryLength);
}

/** Options of `masks.window`. */
export interface WindowOptions extends QueryOptions {
  /** Also hide the keys after the query's position. Default false. */
  causal?: boolean;
}

/**
 * Paddle's `window_size`: every query sees its own key, `left` keys before it and `right` keys after it. With causal:
 * true it sees none after it, so that window(n, w, {causal: true}) is slidingWindow(n, w + 1).
 *
 * @param length Keys.
 * @param size Both sides, or [left, right]; Infinity for a side without limit.
 * @param options `queryLength`, and `causal` to hide the keys after the query.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.window(1024, 64); // 64 keys on both sides
 * masks.window(1024, [128, 0]); // 128 before, none after
 * masks.window(1024, 128, {causal: true}); // = masks.slidingWindow(1024, 129)
 */
export function window(
  length: number,
  size: number | readonly [left: number, right: number],
  options?: WindowOptions,
): FlashMask {
  const who = 'masks.window';
  const given = checkOptions(who, options, ['queryLength', 'causal']);
  const {queryLength, keyLength} = readSizes(who, length, given.queryLength);
  checkFlag(who, 'causal', given.causal);
  const [left, right] = readSides(who, 'size must be a number or [left, right]', size).map((side, i) =>
    side === Infinity ? keyLength + queryLength : checkInteger(who, i === 0 ? 'left' : 'right', side, 0),
  );
  const offset = keyLength - queryLength;
  const start = (j: number): number => clampTo(j - offset + left + 1, queryLength);
  const sizes = {name: 'window', queryLength, keyLength};
  return given.causal
    ? buildMask({...sizes, causal: true, vectors: 1}, (j) => [start(j)])
    : buildMask({...sizes, causal: false, vectors: 2}, (j) => [start(j), clampTo(j - offset - right, queryLength)]);
}

/** One number for both sides, or two. */
function readSides(who: string, rule: string, sides: unknown): unknown[] {
  if (!isArray(sides)) return [sides, sides];
  if (sides.length !== 2) fail(who, rule, describe(sides), 'Pass one or two numbers.');
  return Array.from(sides);
}

/**
 * The first `globals` tokens see all and are seen by all; the others see each other up to a distance.
 *
 * @param length Tokens.
 * @param window The distance that is still seen, at least 0; or [before, after] the query.
 * @param globals From 0 to length.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.globalSlidingWindow(1024, 64, 8); // 8 global tokens, and 64 neighbours on both sides
 * masks.globalSlidingWindow(1024, [64, 0], 8);
 */
export function globalSlidingWindow(
  length: number,
  window: number | readonly [before: number, after: number],
  globals: number,
): FlashMask {
  const who = 'masks.globalSlidingWindow';
  const sizes = {name: 'globalSlidingWindow', ...readSizes(who, length), causal: false, vectors: 4} as const;
  const sides = readSides(who, 'window must be a number or [before, after]', window);
  const [before, after] = sides.map((side, i) => checkInteger(who, i === 0 ? 'before' : 'after', side, 0));
  checkAtMost(who, 'globals', checkInteger(who, 'globals', globals, 0), length);
  return buildMask(sizes, (j) => {
    // Empty upper intervals are placed at the end of the globals, so that a tile of mixed columns is known to be full
    // above.
    if (j < globals) return [length, length, globals, globals];
    return [clampTo(j + before + 1, length), length, globals, Math.max(globals, j - after)];
  });
}

/**
 * A prefix whose tokens all tokens see, followed by causal tokens.
 *
 * @param length Keys.
 * @param prefix Tokens of the prefix, from 0 to length; or one number for each row of a batch.
 * @param options `queryLength`, if there are not as many queries as keys.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.prefixLmCausal(1024, 300);
 * masks.prefixLmCausal(1024, [300, 500]); // a batch of two rows
 */
export function prefixLmCausal(length: number, prefix: number | Numbers, options?: QueryOptions): FlashMask {
  const who = 'masks.prefixLmCausal';
  const {queryLength, keyLength} = readQuerySizes(who, length, options);
  const [prefixes] = readLengths(who, 'prefix', isArray(prefix) ? [prefix] : [[prefix]]);
  prefixes.forEach((value) => checkAtMost(who, 'prefix', value, length));
  const offset = keyLength - queryLength;
  const batch = prefixes.length;
  const sizes = {name: 'prefixLmCausal', queryLength, keyLength, batch, causal: false, vectors: 2} as const;
  return buildMask(sizes, (j, b) => [queryLength, j < prefixes[b] ? 0 : clampTo(j - offset, queryLength)]);
}

/** Spans [start, end) of tokens: for all rows, or for each row of a batch. */
export type Spans = readonly Numbers[] | readonly (readonly Numbers[])[];

/**
 * Causal, but the tokens of a dropped span see no key of their span, not even their own. Tokens after the span see its
 * keys; its tokens see the keys before it.
 *
 * @param length Tokens.
 * @param spans `[start, end)` pairs that do not overlap; or such a list for each row of a batch.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.qkSparse(1024, [[100, 200], [600, 640]]);
 */
export function qkSparse(length: number, spans: Spans): FlashMask {
  const who = 'masks.qkSparse';
  const sizes = readSizes(who, length);
  const rows = readSpans(who, spans, length);
  checkCount(who, 'the bounds of a mask', [rows.length, length, 2]);
  const columns = rows.map((row) => spanColumns(row, length));
  return buildMask({name: 'qkSparse', ...sizes, batch: rows.length, causal: true, vectors: 2}, (j, b) => columns[b][j]);
}

/**
 * [j, end) for columns in spans. Other columns get an empty interval at the end of the nearest span, so that a tile of
 * mixed columns is known to be full below the span.
 */
function spanColumns(spans: number[][], length: number): number[][] {
  const columns: number[][] = [];
  spans.forEach(([start, end], i) => {
    const next = spans[i + 1]?.[0] ?? length;
    const until = i + 1 < spans.length ? Math.ceil((end + next) / 2) : length;
    for (let j = columns.length; j < until; j++) columns.push([j >= start && j < end ? j : end, end]);
  });
  while (columns.length < length) columns.push([length, length]);
  return columns;
}

function readSpans(who: string, spans: unknown, length: number): number[][][] {
  const remedy = 'Pass [[start, end], ...], or one such list for each row of the batch.';
  if (!isArray(spans)) fail(who, 'spans must be an array of [start, end) pairs', describe(spans), remedy);
  const list = listOf(who, 'spans', spans, remedy, 0);
  const perRow = list.some((row) => isArray(row) && (row.length === 0 || isArray(row[0])));
  return (perRow ? list : [list]).map((row) => {
    if (!isArray(row)) fail(who, 'spans of a row must be an array of [start, end) pairs', describe(row), remedy);
    const pairs = listOf(who, 'spans of a row', row, remedy, 0).map((pair) => {
      if (!isArray(pair) || pair.length !== 2) fail(who, 'a span must be a pair [start, end)', describe(pair), remedy);
      const [start, end] = Array.from(pair, (value) => checkInteger(who, 'the bounds of a span', value, 0));
      if (start >= end || end > length) {
        fail(
          who,
          `a span must have 0 <= start < end <= ${length}`,
          describe([start, end]),
          'Give it at least a token of the row.',
        );
      }
      return [start, end];
    });
    const sorted = [...pairs].sort((a, b) => a[0] - b[0]);
    sorted.forEach((pair, i) => {
      if (i > 0 && pair[0] < sorted[i - 1][1]) {
        fail(who, 'spans must not overlap', describe([sorted[i - 1], pair]), 'Join them to one span.');
      }
    });
    return sorted;
  });
}

function checkAtMost(who: string, what: string, value: number, most: number): void {
  if (value > most) fail(who, `${what} must be at most the length, ${most}`, `${value}`, 'Lower it.');
}
