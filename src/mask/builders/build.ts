/** @file What all mask builders share: sizes, and the loop over key columns. */
import {checkInteger} from '../../call/errors.js';
import {FlashMask, type FlashMaskFields} from '../flash_mask.js';
import {checkCount} from './limits.js';

/** A mask from the bounds of its columns: called for every head of every batch row. */
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

/** Lengths of a mask, checked; as many queries as keys unless told. */
export function readSizes(who: string, length: number, queryLength = length): {queryLength: number; keyLength: number} {
  checkInteger(who, 'length', length, 1);
  checkInteger(who, 'queryLength', queryLength, 1);
  return {queryLength, keyLength: length};
}

/** A row bound, brought into [0, rows], which does not change what it masks. */
export function clampTo(row: number, rows: number): number {
  return Math.min(rows, Math.max(0, row));
}
