/** @file The mask of a rank: its rows against the keys that they see. */
import {type HostBounds, type Intervals, intervalsAt, type Vectors} from '../../mask/bounds/intervals.js';
import {FlashMask} from '../../mask/flash_mask.js';
import type {Place} from './live_tiles.js';

/** Vectors of a rank's mask, by those of a causal mask and of others. The triangle becomes bounds. */
const CAUSAL_VECTORS: Record<Vectors, Vectors> = {0: 2, 1: 2, 2: 4, 4: 4};

/**
 * The mask of some rows of a square mask, which are in the order of the row, against some of its keys. The bounds of a
 * key count the rows before them that are here: intervals of rows stay intervals, and the triangle of a causal mask
 * becomes one.
 *
 * @param place Maps a bound to the number of rows here that come before it.
 * @param rows The number of rows here.
 * @param keys The keys' numbers in the whole row, in any order.
 */
export function localMask(mask: HostBounds & {name: string}, place: Place, rows: number, keys: Int32Array): FlashMask {
  const {batch, heads, keyLength, causal, name} = mask;
  const vectors = causal ? CAUSAL_VECTORS[mask.vectors] : mask.vectors;
  const bounds = new Int32Array(batch * heads * keys.length * vectors);
  const column: Intervals = [0, 0, 0, 0];
  let at = 0;
  for (let head = 0; vectors > 0 && head < batch * heads; head++) {
    for (const key of keys) {
      intervalsAt(mask.bounds, mask.vectors, causal, head * keyLength + key, column);
      const [LTS, LTE, UTS, UTE] = column;
      // Of a causal mask the upper interval is free for the triangle: the rows before the key.
      const upper = causal ? [0, key] : [UTS, UTE];
      // Two vectors are LTS and UTE. Without intervals, LTS is the end of the rows.
      const all = vectors === 4 ? [LTS, LTE, ...upper] : [mask.vectors === 0 ? keyLength : LTS, upper[1]];
      for (const bound of all) bounds[at++] = place(bound);
    }
  }
  return new FlashMask({name, causal: false, queryLength: rows, keyLength: keys.length, batch, heads, vectors, bounds});
}
