/**
 * @file The sums over a partial tile's pairs. A weight of 0 does not hide a number that is not finite (0 · NaN is NaN), so these are
 * taken out of the tile for the product, and added to what sees them one by one. They are rare: a tile without one pays for a look.
 */
import {addProductAB, addProductAtB} from './matrix.js';

/** A number that is not finite, and where it lies in its tile. */
interface Stray {
  at: number;
  value: number;
}

/** C += A B over the pairs of A that are not hidden; all others must be 0 in A. Sizes and strides as in `addProductAB`. */
export function addVisibleAB(
  c: Float64Array,
  at: number,
  a: Float64Array,
  b: Float64Array,
  m: number,
  n: number,
  k: number,
  hidden: Uint8Array,
): void {
  const strays = takeStrays(b, k * n);
  addProductAB(c, at, a, b, m, n, k);
  for (const stray of strays) addStray(c, at, a, k, 1, m, n, hidden, stray);
  putBack(b, strays);
}

/** C += Aᵀ B over the pairs of A that are not hidden; all others must be 0 in A. Sizes and strides as in `addProductAtB`. */
export function addVisibleAtB(
  c: Float64Array,
  at: number,
  a: Float64Array,
  b: Float64Array,
  m: number,
  n: number,
  k: number,
  hidden: Uint8Array,
): void {
  const strays = takeStrays(b, k * n);
  addProductAtB(c, at, a, b, m, n, k);
  for (const stray of strays) addStray(c, at, a, 1, m, m, n, hidden, stray);
  putBack(b, strays);
}

/** Puts 0 in place of what is not finite. */
function takeStrays(tile: Float64Array, size: number): Stray[] {
  const strays: Stray[] = [];
  for (let at = 0; at < size; at++) {
    const value = tile[at];
    if (value - value === 0) continue;
    strays.push({at, value});
    tile[at] = 0;
  }
  return strays;
}

function putBack(tile: Float64Array, strays: Stray[]): void {
  for (const {at, value} of strays) tile[at] = value;
}

/** Adds a stray of B, with its weights, to the rows of C whose pairs with it are visible. */
function addStray(
  c: Float64Array,
  at: number,
  a: Float64Array,
  aRow: number,
  aColumn: number,
  m: number,
  n: number,
  hidden: Uint8Array,
  stray: Stray,
): void {
  const x = Math.floor(stray.at / n);
  const column = stray.at % n;
  for (let i = 0; i < m; i++) {
    const pair = i * aRow + x * aColumn;
    if (!hidden[pair]) c[at + i * n + column] += a[pair] * stray.value;
  }
}
