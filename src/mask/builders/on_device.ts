/** @file Builders of bounds on the device, from tensors that are there, such as a model's padding mask. */
import {
  type Tensor,
  type Tensor2D,
  type Tensor4D,
  add,
  cast,
  concat,
  expandDims,
  greaterEqual,
  max,
  maximum,
  mul,
  notEqual,
  pad,
  range,
  reverse,
  scalar,
  slice,
  stack,
  sub,
  tidy,
} from '@tensorflow/tfjs-core';
import {checkFlag, checkOptions, describe, fail} from '../../call/errors.js';
import {isTensor} from '../../call/values.js';

/** Options of `masks.segments`. */
export interface SegmentBoundsOptions {
  /**
   * Also hide the keys after the query's position. The bounds then have one vector, LTS, and are given to the op with
   * `causal: true`; else two, LTS and UTE, with `causal: false`. Default false.
   */
  causal?: boolean;
}

/** Options of `masks.padding`. */
export interface PaddingOptions extends SegmentBoundsOptions {
  /** The queries are other tokens than the keys: all of them see the keys that are no padding. Default false. */
  crossAttention?: boolean;
}

/**
 * The bounds of a padded batch, made on the device. Padding is seen by no token. The padding before the first and after
 * the last token sees nothing; padding between tokens, and rows of other queries, see all tokens.
 *
 * @param tokens `[batch, length]`, bool, int32 or float32: 0 or false for padding. A padding mask, or token ids with 0
 *   for padding.
 * @param options `causal`, which the op must be given too, and `crossAttention`.
 * @returns int32 `[batch, 1, length, 1 or 2]`, a new tensor, which the caller disposes.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.padding(tf.tensor2d([[7, 4, 0, 0], [5, 1, 9, 2]], [2, 4], 'int32')); // for calls with {causal: false}
 */
export function padding(tokens: Tensor, options?: PaddingOptions): Tensor4D {
  const who = 'masks.padding';
  const given = checkOptions(who, options, ['causal', 'crossAttention']);
  const {causal, crossAttention} = given;
  checkFlag(who, 'causal', causal);
  checkFlag(who, 'crossAttention', crossAttention);
  const length = lengthOf(who, 'tokens', tokens);
  return tidy(() => {
    // On wasm a cast to bool keeps the numbers.
    const isToken = tokens.dtype === 'bool' ? tokens : notEqual(tokens, scalar(0, tokens.dtype));
    const real = cast(isToken, 'int32');
    if (crossAttention) return asBounds(real, int(AFTER_ALL_ROWS), int(0), causal);
    const positions = range(0, length, 1, 'int32');
    const end = max(mul(real, add(positions, int(1))), 1, true);
    const start = sub(int(length), max(mul(real, sub(int(length), positions)), 1, true));
    return asBounds(real, end, start, causal);
  });
}

/**
 * The bounds of packed documents, made on the device: tokens see each other if they are neighbours of the same id, or
 * have only such tokens between them. A negative id is padding, which sees nothing and is seen by none.
 *
 * @param ids `[batch, length]`, int32, or whole float32: the document of each token.
 * @param options `causal`, which the op must be given too.
 * @returns int32 `[batch, 1, length, 1 or 2]`, a new tensor, which the caller disposes.
 * @throws Error naming the builder, the rule, the value and the remedy.
 * @example
 * masks.segments(tf.tensor2d([[0, 0, 0, 1, 1, -1]], [1, 6], 'int32'), {causal: true}); // the call needs causal, too
 */
export function segments(ids: Tensor, options?: SegmentBoundsOptions): Tensor4D {
  const who = 'masks.segments';
  const {causal} = checkOptions(who, options, ['causal']);
  checkFlag(who, 'causal', causal);
  const length = lengthOf(who, 'ids', ids);
  return tidy(() => {
    const whole = cast(ids, 'int32') as Tensor2D;
    const real = cast(greaterEqual(whole, int(0)), 'int32');
    const end = sub(int(length), reverse(runStarts(reverse(whole, 1)), 1));
    return asBounds(real, end, runStarts(whole), causal);
  });
}

/** A row after every query. A float32 holds it, as which WebGL keeps integers. */
export const AFTER_ALL_ROWS = 2 ** 24;

const int = (value: number): Tensor => scalar(value, 'int32');

/** Bounds by which the real keys are seen from `start` to before `end`, and the others by no row. */
function asBounds(real: Tensor, end: Tensor, start: Tensor, causal = false): Tensor4D {
  const LTS = mul(real, end);
  if (causal) return expandDims(expandDims(LTS, -1), 1);
  // All rows are before the end of what hides the others: then tiles of mixed columns are known to be empty, too.
  const [, length] = real.shape;
  const UTE = add(mul(real, start), mul(sub(int(1), real), int(length)));
  return expandDims(stack([LTS, UTE], -1), 1);
}

/**
 * For each token the position where its run of equal ids begins: the largest beginning up to it, in steps that double.
 */
function runStarts(ids: Tensor2D): Tensor2D {
  const [batch, length] = ids.shape;
  const positions = range(0, length, 1, 'int32');
  const before = concat([slice(ids, [0, 0], [batch, 1]), slice(ids, [0, 0], [batch, length - 1])], 1);
  let starts = mul(cast(notEqual(ids, before), 'int32'), positions) as Tensor2D;
  for (let step = 1; step < length; step *= 2) {
    const earlier = pad(slice(starts, [0, 0], [batch, length - step]), [
      [0, 0],
      [step, 0],
    ]);
    starts = maximum(starts, earlier);
  }
  return starts;
}

/** The length of a tensor `[batch, length]`. */
function lengthOf(who: string, what: string, tensor: unknown): number {
  if (!isTensor(tensor)) {
    const remedy = 'Make one with tf.tensor2d(), or use a builder that reads arrays.';
    fail(who, `${what} must be a tensor [batch, length]`, describe(tensor), remedy);
  }
  const {shape, dtype} = tensor;
  if (tensor.isDisposed) fail(who, `${what} must not be disposed`, describe(tensor), 'Keep it with tf.keep().');
  if (!['bool', 'int32', 'float32'].includes(dtype)) {
    fail(who, `${what} must be bool, int32 or float32`, describe(tensor), 'Cast it.');
  }
  if (shape.length !== 2 || shape[1] < 1) {
    fail(who, `${what} must have two axes, [batch, length]`, describe(tensor), 'Reshape it.');
  }
  return shape[1];
}
