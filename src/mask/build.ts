/** @file What all mask builders share: sizes, and the loop over key columns. */
import {checkInteger} from './errors.js';
import {FlashMask, type FlashMaskFields} from './flash_mask.js';

/** A mask from the bounds of its columns: called for every head of every batch row. */
export function buildMask(
  fields: Omit<FlashMaskFields, 'bounds' | 'boundsTensor'>,
  column: (j: number, batch: number, head: number) => readonly number[],
): FlashMask {
  const {batch = 1, heads = 1, keyLength, vectors} = fields;
  const bounds = new Int32Array(batch * heads * keyLength * vectors);
  let at = 0;
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      for (let j = 0; j < keyLength; j++, at += vectors) bounds.set(column(j, b, h), at);
    }
  }
  return new FlashMask({...fields, bounds});
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
