/** @file Masks from what a user may have already: segment ids, a dense mask, Paddle's startend_row_indices. */
import type {Tensor4D} from '@tensorflow/tfjs-core';
import {type PerBatch, rowsOf} from './arguments.js';
import {buildMask} from './build.js';
import {fitDense} from './dense.js';
import {checkInteger, describe, fail} from './errors.js';
import {FlashMask, checkVectors} from './flash_mask.js';
import {type Nested, readNested} from './nested.js';
import {MAX_BOUND, MIN_BOUND} from './tile_map.js';

/** Options of `masks.fromSegmentIds`. */
export interface SegmentOptions {
  /** Also hide the keys after the query's position. Default false. */
  causal?: boolean;
  /** Ids of the queries, if they are not those of the keys; as many rows. */
  queryIds?: PerBatch;
}

/**
 * Tokens see each other if they have the same id. Tokens with a negative id are padding: they see nothing and nobody sees them.
 *
 * @param ids The segment of each key; whole numbers, tokens of a segment adjoining. Or such a list for each row of a batch.
 * @example
 * masks.fromSegmentIds([0, 0, 0, 1, 1, -1], {causal: true});
 */
export function fromSegmentIds(ids: PerBatch, options: SegmentOptions = {}): FlashMask {
  const who = 'masks.fromSegmentIds';
  const keys = readIds(who, 'ids', ids);
  const queries = options.queryIds === undefined ? keys : readIds(who, 'queryIds', options.queryIds);
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
  const runs = queries.map((row, b) => segmentRuns(who, options.queryIds ? 'queryIds' : 'ids', row, b));
  if (options.queryIds) keys.forEach((row, b) => segmentRuns(who, 'ids', row, b));
  const visible = keys.map((row, b) => row.map((id) => runs[b].get(id) ?? [0, 0]));
  // LTS alone will do where no segment of queries starts below the diagonal of its keys.
  const triangular = visible.every((row) =>
    row.every(([start, end], j) => start <= Math.max(0, j - offset) || end === 0),
  );
  const sizes = {name: 'fromSegmentIds', queryLength, keyLength, batch};
  if (options.causal && triangular) {
    return buildMask({...sizes, causal: true, vectors: 1}, (j, b) => [visible[b][j][1]]);
  }
  return buildMask({...sizes, causal: false, vectors: 2}, (j, b) => {
    const [start, end] = visible[b][j];
    if (end === 0) return [0, queryLength];
    return [end, options.causal ? Math.min(queryLength, Math.max(start, j - offset)) : start];
  });
}

function readIds(who: string, what: string, values: unknown): number[][] {
  const rows = rowsOf(who, what, values);
  rows.forEach((row, b) => {
    if (row.length !== rows[0].length || row.length === 0) {
      fail(who, `${what} must be equally long in every row`, `${row.length} in row ${b}`, 'Pad rows with the id -1.');
    }
    row.forEach((id, i) => {
      if (!Number.isInteger(id))
        fail(who, `${what} must be whole numbers`, `${String(id)} at ${i}`, 'Number the segments.');
    });
  });
  return rows as number[][];
}

/** Where each segment stands; padding is left out. */
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
        'Number the later segment anew, or order the tokens by segment.',
      );
    }
  });
  return runs;
}

/** Options of `masks.fromDense`. */
export interface DenseOptions {
  /** Default 'fromDense'. */
  name?: string;
  /** Of a flat array: [queryLength, keyLength] or [batch, heads, queryLength, keyLength]. */
  shape?: readonly number[];
}

/**
 * The mask with the visible pairs of a dense one, in the smallest form that expresses it: no vectors, causal with one or two, or not
 * causal with two or four.
 *
 * @param dense Non-zero or true where the query sees the key. Nested `[queryLength][keyLength]` or
 *   `[batch][heads][queryLength][keyLength]`, or flat with a shape.
 * @throws Error naming the first key column whose masked rows are more than two intervals.
 * @example
 * masks.fromDense([[1, 0], [1, 1]]); // causal
 * masks.fromDense(await tensor.data(), {shape: tensor.shape});
 */
export function fromDense(dense: Nested, options: DenseOptions = {}): FlashMask {
  const who = 'masks.fromDense';
  if (isTensor(dense)) {
    fail(who, 'dense must be an array', 'a tensor', 'Pass `await tensor.data()` and {shape: tensor.shape}.');
  }
  const {data, shape} = readNested(who, 'dense', dense, [2, 4], options.shape);
  const [batch, heads, queryLength, keyLength] = shape.length === 2 ? [1, 1, ...shape] : shape;
  shape.forEach((length) => checkInteger(who, 'every length in the shape', length, 1));
  for (let i = 0; i < data.length; i++) {
    if (typeof data[i] === 'boolean' || (typeof data[i] === 'number' && !Number.isNaN(data[i]))) continue;
    fail(
      who,
      'dense must hold numbers or booleans',
      `${describe(data[i])} at ${i}`,
      'Use 1 for visible, 0 for masked.',
    );
  }
  const fitted = fitDense(who, {data, batch, heads, queryLength, keyLength});
  return new FlashMask({name: options.name ?? 'fromDense', batch, heads, queryLength, keyLength, ...fitted});
}

/** Options of `masks.fromStartEndRowIndices`. */
export interface RowIndicesOptions {
  /** As Paddle's `causal`: it decides what the vectors mean. Default false. */
  causal?: boolean;
  /** Default: as many as keys. */
  queryLength?: number;
  /** Of a flat array: [batch, heads, keyLength, vectors]. */
  shape?: readonly number[];
  /** Default 'fromStartEndRowIndices'. */
  name?: string;
}

/**
 * A mask from Paddle's `startend_row_indices`, `[batch, heads, keyLength, vectors]`, which works unchanged.
 *
 * @param indices An int32 tensor, which stays yours and must live as long as the mask is used; or nested arrays; or a flat array with
 *   a shape. Whole numbers.
 * @example
 * masks.fromStartEndRowIndices([[[[2], [2], [4], [4]]]], {causal: true}); // two documents of two tokens
 */
export function fromStartEndRowIndices(indices: Tensor4D | Nested, options: RowIndicesOptions = {}): FlashMask {
  const who = 'masks.fromStartEndRowIndices';
  const {causal = false, name = 'fromStartEndRowIndices'} = options;
  const tensor = isTensor(indices) ? indices : null;
  const {data, shape} = tensor ? readTensor(who, tensor) : readNested(who, 'indices', indices, [4], options.shape);
  const [batch, heads, keyLength, vectors] = shape;
  checkVectors(who, causal, vectors);
  for (let i = 0; i < data.length; i++) {
    const bound = data[i];
    if (Number.isInteger(bound) && Number(bound) >= MIN_BOUND && Number(bound) <= MAX_BOUND) continue;
    const remedy = 'Row bounds are rows, not weights: convert a dense mask with masks.fromDense().';
    fail(who, 'row bounds must be whole numbers of int32', `${describe(bound)} at ${i}`, remedy);
  }
  const queryLength = options.queryLength ?? keyLength;
  const fields = {name, causal, queryLength, keyLength, batch, heads, vectors};
  return tensor
    ? new FlashMask({...fields, boundsTensor: tensor})
    : new FlashMask({...fields, bounds: Int32Array.from(data as ArrayLike<number>)});
}

function readTensor(who: string, tensor: Tensor4D): {data: number[]; shape: number[]} {
  const shape: number[] = tensor.shape;
  const form = '[batch, heads, keyLength, vectors]';
  if (shape.length !== 4) fail(who, `indices must have the shape ${form}`, describe(shape), 'Reshape the tensor.');
  if (tensor.dtype !== 'int32')
    fail(who, 'indices must be int32', tensor.dtype, 'Cast the tensor with tensor.toInt().');
  return {data: [], shape};
}

/** A tensor of any copy of tfjs. */
function isTensor(value: unknown): value is Tensor4D {
  return typeof value === 'object' && value !== null && 'dataId' in value && 'dtype' in value;
}
