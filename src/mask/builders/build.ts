/** @file Shared by all mask builders: the sizes, and the loop over key columns. */
import {checkInteger} from '../../call/errors.js';
import {FlashMask, type FlashMaskFields} from '../flash_mask.js';
import {checkCount} from './limits.js';

/** Builds a mask from a function that gives the bounds of one column of one batch row and head. */
export function buildMask(
  fields: Omit<FlashMaskFields, 'name' | 'bounds' | 'boundsTensor'> & {name: string},
  column: (j: number, batch: number, head: number) => readonly number[],
): FlashMask {
  const {name, batch = 1, heads = 1, keyLength, vectors} = fields;
  const bounds = allocateBounds(`masks.${name}`, [batch, heads, keyLength, vectors]);
  let at = 0;
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let j = 0; j < keyLength; j++, at += vectors) bounds.set(column(j, b, h), at);
    }
  }
  return new FlashMask({...fields, bounds});
}

/** Bounds of this shape, [batch, heads, keyLength, vectors], all 0. */
export function allocateBounds(who: string, shape: readonly number[]): Int32Array {
  checkCount(who, 'the bounds of a mask', shape);
  return new Int32Array(shape.reduce((a, b) => a * b, 1));
}

/** Checks the lengths of a mask. Default `queryLength`: as many queries as keys. */
export function readSizes(who: string, length: number, queryLength = length): {queryLength: number; keyLength: number} {
  checkInteger(who, 'length', length, 1);
  checkInteger(who, 'queryLength', queryLength, 1);
  return {queryLength, keyLength: length};
}

/** A row bound, clamped to [0, rows]. It still masks the same rows. */
export function clampTo(row: number, rows: number): number {
  return Math.min(rows, Math.max(0, row));
}
