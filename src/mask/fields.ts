/**
 * @file The fields of a mask, their checks, and the mark by which copies of this library recognize each other's masks.
 */
import type {Tensor4D} from '@tensorflow/tfjs-core';
import {checkFlag, checkInteger, checkText, describe, fail} from '../call/errors.js';
import type {Vectors} from './bounds/intervals.js';
import {isTensor} from '../call/values.js';

/** The fields of a `FlashMask`. `masks` has builders for the usual masks. */
export interface FlashMaskFields {
  /** Default 'custom'. */
  name?: string;
  /** Also mask query r from key j if r < j - (keyLength - queryLength). Default false; two vectors require it. */
  causal?: boolean;
  /** Query rows, at least 1. */
  queryLength: number;
  /** Key columns, at least 1. */
  keyLength: number;
  /** Batch rows with their own masks; 1 (the default): all rows share one. */
  batch?: number;
  /** Heads with their own masks: 1 (the default), the number of key heads, or of query heads. */
  heads?: number;
  /** Bounds per key column: 0, 1 or 2 if causal, else 0, 2 or 4. */
  vectors: Vectors;
  /** int32 `[batch, heads, keyLength, vectors]`, row-major; copied. */
  bounds?: Int32Array | null;
  /** The same as a tensor, instead of `bounds`. The caller owns it and disposes it after the last use of the mask. */
  boundsTensor?: Tensor4D | null;
}

export const FIELD_NAMES: readonly (keyof FlashMaskFields)[] = [
  'name',
  'causal',
  'queryLength',
  'keyLength',
  'batch',
  'heads',
  'vectors',
  'bounds',
  'boundsTensor',
];

/**
 * Marks masks. It is the same in every copy of this library, for example ESM next to CommonJS. No object has it by
 * accident.
 */
export const MASK_MARK: unique symbol = Symbol.for('tfjs-flashmask.FlashMask');

/** Throws, naming them, if fields contradict each other. */
export function checkFields(who: string, fields: Partial<FlashMaskFields>): asserts fields is FlashMaskFields {
  const {name, causal, queryLength, keyLength, batch = 1, heads = 1, vectors} = fields;
  const {bounds = null, boundsTensor = null} = fields;
  checkText(who, 'name', name);
  checkInteger(who, 'queryLength', queryLength, 1);
  const keys = checkInteger(who, 'keyLength', keyLength, 1);
  checkInteger(who, 'batch', batch, 1);
  checkInteger(who, 'heads', heads, 1);
  checkVectors(who, causal, vectors);
  checkStorage(who, bounds, boundsTensor, [batch, heads, keys, vectors]);
}

/** The numbers of vectors that a mask may have, and the remedy for another number. */
export function vectorsOf(causal: boolean): {allowed: readonly number[]; remedy: string} {
  return causal
    ? {
        allowed: [0, 1, 2],
        remedy: 'A causal mask has LTS, or LTS and LTE. Leave out causal: true for four vectors.',
      }
    : {
        allowed: [0, 2, 4],
        remedy: 'A mask that is not causal has LTS and UTE, or LTS, LTE, UTS and UTE. Pass causal: true for LTS alone.',
      };
}

/** Throws unless masks of this causality can store this many bounds per column. */
export function checkVectors(who: string, causal: unknown, vectors: unknown): asserts vectors is Vectors {
  checkFlag(who, 'causal', causal);
  checkReading(who, causal, vectors);
  const {allowed, remedy} = vectorsOf(causal ?? false);
  if (allowed.includes(vectors as number)) return;
  fail(
    who,
    `a mask with causal: ${causal ?? false} has ${allowed.join(', ')} bounds a column`,
    describe(vectors),
    remedy,
  );
}

/**
 * Throws if two vectors come without `causal`: they mean different masks with true and with false, and either would
 * run.
 */
export function checkReading(who: string, causal: boolean | undefined, vectors: unknown): void {
  if (vectors !== 2 || causal !== undefined) return;
  const remedy = 'Pass causal: true if the vectors are LTS and LTE, causal: false if they are LTS and UTE.';
  fail(who, 'with two vectors causal must be given', 'none', remedy);
}

function checkStorage(who: string, bounds: unknown, tensor: unknown, shape: readonly number[]): void {
  const wanted = `[${shape.join(', ')}] ([batch, heads, keyLength, vectors])`;
  if (bounds !== null && tensor !== null) {
    fail(who, 'the bounds live in one place', 'both bounds and boundsTensor', 'Pass one of them.');
  }
  if (tensor !== null) {
    if (!isTensor(tensor)) fail(who, 'boundsTensor must be a tensor', describe(tensor), 'Make one with tf.tensor4d().');
    const got = `${tensor.dtype} of shape [${tensor.shape.join(', ')}]`;
    if (tensor.dtype !== 'int32') fail(who, 'boundsTensor must be int32', got, 'Cast it with tensor.toInt().');
    if (tensor.shape.join() !== shape.join()) fail(who, `boundsTensor must have shape ${wanted}`, got, 'Reshape it.');
    return;
  }
  if (bounds !== null && !(bounds instanceof Int32Array)) {
    fail(who, 'bounds must be an Int32Array', describe(bounds), 'Convert whole numbers with Int32Array.from().');
  }
  const count = shape.reduce((a, b) => a * b);
  const given = bounds?.length ?? 0;
  if (given !== count) fail(who, `bounds must have ${count} values for ${wanted}`, `${given}`, 'Pass one for each.');
}
