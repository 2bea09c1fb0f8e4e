/** @file Draws masks with any bounds, for properties. */
import * as fc from 'fast-check';
import {MAX_BOUND, MIN_BOUND} from '../../src/mask/bounds/intervals.js';
import {FlashMask} from '../../src/mask/flash_mask.js';

const forms = [
  {causal: true, vectors: 0},
  {causal: false, vectors: 0},
  {causal: true, vectors: 1},
  {causal: true, vectors: 2},
  {causal: false, vectors: 2},
  {causal: false, vectors: 4},
] as const;

/** A bound near the rows in most draws, far out of range in some. */
const bound = fc.oneof(
  {weight: 12, arbitrary: fc.integer({min: -3, max: 40})},
  {weight: 1, arbitrary: fc.constantFrom(MIN_BOUND, MIN_BOUND + 1, -1000, 1000, MAX_BOUND - 1, MAX_BOUND)},
);

/**
 * What {@link drawnMask} makes a mask of, but for its lengths. Bounds may be swapped, overlapping, empty, negative or
 * past the last row; with or without runs of equal columns.
 *
 * @param most The most bounds that are drawn; longer masks repeat them.
 */
export const maskFields = (most: number) => ({
  form: fc.constantFrom(...forms),
  batch: fc.integer({min: 1, max: 2}),
  heads: fc.integer({min: 1, max: 2}),
  run: fc.integer({min: 1, max: 12}),
  pool: fc.array(bound, {minLength: 4, maxLength: most}),
});

interface MaskFields {
  form: (typeof forms)[number];
  batch: number;
  heads: number;
  /** Neighbouring columns with the same bounds. */
  run: number;
  pool: number[];
}

export function drawnMask(
  {form, batch, heads, run, pool}: MaskFields,
  queryLength: number,
  keyLength: number,
): FlashMask {
  const bounds = Int32Array.from({length: batch * heads * keyLength * form.vectors}, (_, i) => {
    const column = Math.floor(i / form.vectors);
    return pool[(Math.floor(column / run) * form.vectors + (i % form.vectors)) % pool.length];
  });
  return new FlashMask({...form, queryLength, keyLength, batch, heads, bounds});
}
