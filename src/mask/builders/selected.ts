/** @file Builders of masks whose visible pairs are selected by hashes or at random. */
import {type Numbers, type PerBatch, readPerToken} from './arguments.js';
import {buildMask, readSizes} from './build.js';
import {checkInteger, checkOptions, fail} from '../../call/errors.js';
import type {FlashMask} from '../flash_mask.js';
import {checkCount} from './limits.js';
import {randomInteger, seededRandom} from './random.js';

/**
 * The order of tokens by hash, then by position: `hashOrder(hashes)[i]` is the position of the token at place i. Sort
 * queries and keys by it before attention under `masks.hashSparse`, and the output back after it.
 *
 * @param hashes The hash bucket of each token of one row, whole numbers.
 * @returns Positions, as many as hashes.
 * @throws Error if they are not whole numbers of one row.
 * @example
 * hashOrder([1, 0, 1, 0]); // [1, 3, 0, 2]
 */
export function hashOrder(hashes: Numbers): Int32Array {
  const rows = readHashes('hashOrder', 'hashes', hashes);
  if (rows.length !== 1) {
    fail('hashOrder', 'hashes must be those of one row', `${rows.length} rows`, 'Call it for each row of the batch.');
  }
  return orderOf(rows[0]);
}

function orderOf(hashes: readonly number[]): Int32Array {
  return Int32Array.from(hashes, (_, i) => i).sort((a, b) => hashes[a] - hashes[b] || a - b);
}

/**
 * Tokens see each other if the query's hash equals the key's, causally by their original positions. The mask is for
 * queries and keys that are both sorted by `hashOrder` of their own hashes, so that a key's visible rows are adjacent.
 *
 * @param queryHashes The hash bucket of each query, in the original order; whole numbers. Or such a list for each row
 *   of a batch.
 * @param keyHashes The same for keys; default those of the queries. If there are more keys than queries, the queries
 *   are the last tokens.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.hashSparse([0, 1, 0, 1]); // for queries and keys in the order of hashOrder([0, 1, 0, 1])
 */
export function hashSparse(queryHashes: PerBatch, keyHashes: PerBatch = queryHashes): FlashMask {
  const who = 'masks.hashSparse';
  const queries = readHashes(who, 'queryHashes', queryHashes);
  const keys = readHashes(who, 'keyHashes', keyHashes);
  if (queries.length !== keys.length) {
    const got = `${queries.length} and ${keys.length}`;
    fail(
      who,
      'queryHashes and keyHashes must have as many rows as each other',
      got,
      'Pass a row for each of the batch.',
    );
  }
  const [queryLength, keyLength] = [queries[0].length, keys[0].length];
  const columns = queries.map((row, b) => hashColumns(row, keys[b]));
  const sizes = {name: 'hashSparse', queryLength, keyLength, batch: queries.length, causal: false, vectors: 2} as const;
  return buildMask(sizes, (j, b) => columns[b][j]);
}

function readHashes(who: string, what: string, values: unknown): number[][] {
  return readPerToken(who, what, values, {length: 'Pass one for every token.', number: 'Pass bucket numbers.'});
}

/** [LTS, UTE] of each sorted key: its visible rows are those of its bucket that come no earlier. */
function hashColumns(queries: number[], keys: number[]): number[][] {
  const queryOrder = orderOf(queries);
  const offset = keys.length - queries.length;
  let first = 0; // the first sorted query that is not before the key by (hash, position)
  let end = 0; // the end of the key's bucket among the sorted queries
  return Array.from(orderOf(keys), (position) => {
    const hash = keys[position];
    const before = (q: number): boolean => queries[q] < hash || (queries[q] === hash && q + offset < position);
    while (first < queries.length && before(queryOrder[first])) first++;
    end = Math.max(end, first);
    while (end < queries.length && queries[queryOrder[end]] === hash) end++;
    return [end, first];
  });
}

/** Options of `masks.randomEviction`. */
export interface EvictionOptions {
  /** Heads, each with its own evictions. Default 1. */
  heads?: number;
  /** Rows of a batch, each with its own evictions. Default 1: shared. */
  batch?: number;
  /** Whole number; the same seed gives the same mask. Default 0. */
  seed?: number;
}

/**
 * Causal attention over a cache of `keep` keys: from row `keep` on, every row first evicts a random key, which no row
 * sees from then on. Row r sees min(r + 1, keep) keys, its own among them.
 *
 * @param length Tokens.
 * @param keep At least 1.
 * @param options `heads` and `batch`, each with its own evictions, and the `seed`.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.randomEviction(1024, 256, {heads: 8, seed: 1});
 */
export function randomEviction(length: number, keep: number, options?: EvictionOptions): FlashMask {
  const who = 'masks.randomEviction';
  const sizes = readSizes(who, length);
  const {heads = 1, batch = 1, seed = 0} = checkOptions(who, options, ['heads', 'batch', 'seed']);
  checkInteger(who, 'keep', keep, 1);
  checkInteger(who, 'heads', heads, 1);
  checkInteger(who, 'batch', batch, 1);
  checkInteger(who, 'seed', seed, 0);
  checkCount(who, 'the bounds of a mask', [batch, heads, length]);
  const random = seededRandom(seed);
  const evictions = Array.from({length: batch * heads}, () => drawEvictions(random, length, keep));
  const fields = {name: 'randomEviction', ...sizes, batch, heads, causal: true, vectors: 1} as const;
  return buildMask(fields, (j, b, h) => [evictions[b * heads + h][j]]);
}

/** The row that evicts each key; `length` for keys that stay. */
function drawEvictions(random: () => number, length: number, keep: number): Int32Array {
  const evictedAt = new Int32Array(length).fill(length);
  const cache: number[] = [];
  for (let r = 0; r < length; r++) {
    if (r >= keep) {
      const slot = randomInteger(random, 0, cache.length);
      evictedAt[cache[slot]] = r;
      cache[slot] = cache[cache.length - 1];
      cache.pop();
    }
    cache.push(r);
  }
  return evictedAt;
}
