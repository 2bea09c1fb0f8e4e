/** @file Converts segment ids, dense masks and Paddle's startend_row_indices to masks. */
import type {Tensor, Tensor4D} from '@tensorflow/tfjs-core';
import {type PerBatch, readPerToken} from './arguments.js';
import {buildMask} from './build.js';
import {fitDense} from './dense.js';
import {checkFlag, checkInteger, checkOptions, checkText, describe, fail} from '../../call/errors.js';
import {checkVectors} from '../fields.js';
import {FlashMask} from '../flash_mask.js';
import {type Nested, readNested} from './nested.js';
import {MAX_BOUND, MIN_BOUND} from '../bounds/intervals.js';
import {isTensor} from '../../call/values.js';

/** Options of `masks.fromSegmentIds`. */
export interface SegmentOptions {
  /** Also hide the keys after the query's position. Default false. */
  causal?: boolean;
  /** Ids of the queries, for as many rows as the keys have. Default: the ids of the keys. */
  queryIds?: PerBatch;
}

/**
 * Tokens see each other if they have the same id. Tokens with a negative id are padding: they see nothing, and nothing
 * sees them.
 *
 * @param ids The segment of each key, a whole number; the tokens of a segment are adjacent. Or such a list for each row
 *   of a batch.
 * @param options `causal`, and `queryIds` if they differ from those of the keys.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.fromSegmentIds([0, 0, 0, 1, 1, -1], {causal: true});
 */
export function fromSegmentIds(ids: PerBatch, options?: SegmentOptions): FlashMask {
  const who = 'masks.fromSegmentIds';
  const {causal, queryIds} = checkOptions(who, options, ['causal', 'queryIds']);
  checkFlag(who, 'causal', causal);
  const keys = readIds(who, 'ids', ids);
  const queries = queryIds === undefined ? keys : readIds(who, 'queryIds', queryIds);
  if (queries.length !== keys.length) {
    fail(
      who,
      `queryIds must have ${keys.length} rows, as ids`,
      `${queries.length}`,
      'Pass a row for each of the batch.',
    );
  }
  const [queryLength, keyLength, batch] = [queries[0].length, keys[0].length, keys.length];
  const offset = keyLength - queryLength;
  const runs = queries.map((row, b) => segmentRuns(who, queryIds ? 'queryIds' : 'ids', row, b));
  if (queryIds) keys.forEach((row, b) => segmentRuns(who, 'ids', row, b));
  const visible = keys.map((row, b) => row.map((id) => runs[b].get(id) ?? [0, 0]));
  // LTS alone is enough if no segment of queries starts below the diagonal of its keys.
  const triangular = visible.every((row) =>
    row.every(([start, end], j) => start <= Math.max(0, j - offset) || end === 0),
  );
  const sizes = {name: 'fromSegmentIds', queryLength, keyLength, batch};
  if (causal && triangular) {
    return buildMask({...sizes, causal: true, vectors: 1}, (j, b) => [visible[b][j][1]]);
  }
  return buildMask({...sizes, causal: false, vectors: 2}, (j, b) => {
    const [start, end] = visible[b][j];
    if (end === 0) return [0, queryLength];
    return [end, causal ? Math.min(queryLength, Math.max(start, j - offset)) : start];
  });
}

function readIds(who: string, what: string, values: unknown): number[][] {
  return readPerToken(who, what, values, {length: 'Pad rows with the id -1.', number: 'Number the segments.'});
}

/** The range of each segment, without padding. */
function segmentRuns(who: string, what: string, ids: number[], row: number): Map<number, [start: number, end: number]> {
  const runs = new Map<number, [number, number]>();
  ids.forEach((id, i) => {
    if (id < 0) return;
    const run = runs.get(id);
    if (!run) runs.set(id, [i, i + 1]);
    else if (run[1] === i) run[1]++;
    else {
      const got = `id ${id} at ${run[1] - 1} and again at ${i} in row ${row}`;
      fail(
        who,
        `${what} of a segment must adjoin`,
        got,
        'Give the later segment another number, or order the tokens by segment.',
      );
    }
  });
  return runs;
}

/** Options of `masks.fromDense`. */
export interface DenseOptions {
  /** Default 'fromDense'. */
  name?: string;
  /** Shape of a flat array: [queryLength, keyLength] or [batch, heads, queryLength, keyLength]. */
  shape?: readonly number[];
}

/**
 * Converts a dense mask to the smallest form that expresses it: no vectors, causal with one or two, or not causal with
 * two or four.
 *
 * @param dense 1 or true where the query sees the key, 0 or false where not. No other values: an additive mask, of 0
 *   and -Infinity, says the opposite. Nested `[queryLength][keyLength]` or `[batch][heads][queryLength][keyLength]`, or
 *   flat with a shape.
 * @param options The `shape` of a flat array, and a `name`.
 * @throws Error naming the first value that is not allowed, or the first key column whose masked rows are more than two
 *   intervals.
 * @example
 * masks.fromDense([[1, 0], [1, 1]]); // causal
 * masks.fromDense(await tensor.data(), {shape: tensor.shape});
 * masks.fromDense(await additive.equal(0).data(), {shape: additive.shape});
 */
export function fromDense(dense: Nested, options?: DenseOptions): FlashMask {
  const who = 'masks.fromDense';
  const given = checkOptions(who, options, ['name', 'shape']);
  if (isTensor(dense)) {
    const remedy = 'Pass `await tensor.data()` and {shape: tensor.shape}.';
    fail(who, 'dense must be an array', describe(dense), remedy);
  }
  const {data, shape} = readNested(dense, {
    who,
    what: 'dense',
    ranks: [2, 4],
    shape: given.shape,
    Store: Uint8Array,
    isValue: (value) => value === 0 || value === 1 || typeof value === 'boolean',
    rule: '0, 1, true or false',
    remedy:
      'Use 1 for visible. An additive mask (0 and -Infinity) is converted by mask.equal(0), an array by x => x === 0.',
  });
  const [batch, heads, queryLength, keyLength] = shape.length === 2 ? [1, 1, ...shape] : shape;
  shape.forEach((length) => checkInteger(who, 'every length in the shape', length, 1));
  checkText(who, 'name', given.name);
  const fitted = fitDense(who, {data, batch, heads, queryLength, keyLength});
  return new FlashMask({name: given.name ?? 'fromDense', batch, heads, queryLength, keyLength, ...fitted});
}

/** Options of `masks.fromStartEndRowIndices`. */
export interface RowIndicesOptions {
  /**
   * Paddle's `causal`, which decides how the vectors are read. Two vectors are LTS and LTE with `causal: true`, LTS and
   * UTE with `causal: false`, so two vectors need it. Default false.
   */
  causal?: boolean;
  /** Default: as many as keys. */
  queryLength?: number;
  /** Shape of a flat array: [batch, heads, keyLength, vectors]. */
  shape?: readonly number[];
  /** Default 'fromStartEndRowIndices'. */
  name?: string;
}

/**
 * Makes a mask from Paddle's `startend_row_indices`, `[batch, heads, keyLength, vectors]`, which works unchanged. Two
 * vectors mean different masks with and without `causal`, so they need that option.
 *
 * @param indices An int32 tensor, which stays yours and must live as long as the mask is used; or nested arrays; or a
 *   flat array with a shape. Whole numbers.
 * @param options `causal`, `queryLength`, the `shape` of a flat array, and a `name`.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.fromStartEndRowIndices([[[[2], [2], [4], [4]]]], {causal: true}); // two documents of two tokens
 */
export function fromStartEndRowIndices(indices: Tensor4D | Nested, options?: RowIndicesOptions): FlashMask {
  const who = 'masks.fromStartEndRowIndices';
  const given = checkOptions(who, options, ['causal', 'queryLength', 'shape', 'name']);
  const {causal, name = 'fromStartEndRowIndices'} = given;
  checkText(who, 'name', name);
  const {bounds, boundsTensor, shape} = isTensor(indices)
    ? readTensor(who, indices)
    : readBounds(who, indices, given.shape);
  const [batch, heads, keyLength, vectors] = shape;
  checkVectors(who, causal, vectors);
  checkInteger(who, 'every length in the shape', Math.min(...shape), 1);
  const queryLength = given.queryLength ?? keyLength;
  checkInteger(who, 'queryLength', queryLength, 1);
  return new FlashMask({name, causal, queryLength, keyLength, batch, heads, vectors, bounds, boundsTensor});
}

/** Bounds on the host or in a tensor. */
interface ReadBounds {
  bounds: Int32Array | null;
  boundsTensor: Tensor4D | null;
  shape: number[];
}

function readBounds(who: string, indices: unknown, shape: unknown): ReadBounds {
  const read = readNested(indices, {
    who,
    what: 'indices',
    ranks: [4],
    shape,
    Store: Int32Array,
    isValue: (bound) => Number.isInteger(bound) && Number(bound) >= MIN_BOUND && Number(bound) <= MAX_BOUND,
    rule: 'a whole number of int32',
    remedy: 'Row bounds are rows, not weights: convert a dense mask with masks.fromDense().',
  });
  return {bounds: read.data, boundsTensor: null, shape: read.shape};
}

function readTensor(who: string, tensor: Tensor): ReadBounds {
  const {shape, dtype} = tensor;
  const form = '[batch, heads, keyLength, vectors]';
  if (shape.length !== 4) fail(who, `indices must have the shape ${form}`, describe(shape), 'Reshape the tensor.');
  if (dtype !== 'int32') fail(who, 'indices must be int32', dtype, 'Cast the tensor with tensor.toInt().');
  return {bounds: null, boundsTensor: tensor as Tensor4D, shape};
}
