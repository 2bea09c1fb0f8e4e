/**
 * @file Counts the tiles that kernels compute, from the smallest and largest bounds of key blocks. It finds the rows
 * that a key block hides as ranges, so it takes time in the number of key blocks and not of tiles.
 */
import {BLOCK_BOUNDS, boundsMap} from '../../mask/bounds/classify.js';
import type {HostBounds} from '../../mask/bounds/intervals.js';

/** The sides of the tiles that are counted. */
export const TILE = 128;

/** The bounds map of a square mask, with the triangle of a causal mask as a bound. */
export interface KeyBlocks {
  /** Key columns of a block. */
  block: number;
  /** Blocks of one batch and head. */
  count: number;
  /** Batches times heads. */
  heads: number;
  /** `[heads, count, 8]`: see `boundsMap`. */
  map: Int32Array;
  /** Whether the rows before a block's first column do not see the block. */
  causal: boolean;
}

export function keyBlocksOf(mask: HostBounds, block: number): KeyBlocks {
  const {batch, heads, keyLength, causal} = mask;
  return {block, count: keyLength / block, heads: batch * heads, map: boundsMap(mask, block), causal};
}

/** Maps a bound to rows counted from 0 to `rows`. It never decreases. */
export type Place = (bound: number) => number;

/** Ranges of rows, `[start, end)` one after another. */
type Ranges = number[];

/** Largest starts, smallest ends, and the end of the triangle: what hides rows from a whole key block. */
interface Hidden {
  lowerStart: number;
  lowerEnd: number;
  upperStart: number;
  upperEnd: number;
  triangle: number;
}

/** What hides no row. */
export const nothing = (): Hidden => ({lowerStart: 0, lowerEnd: 0, upperStart: 0, upperEnd: 0, triangle: 0});

/** What hides rows from the block `index` of a head, in places of rows. Writes to `out`. */
export function readHidden(
  {map, count, block, causal}: KeyBlocks,
  head: number,
  index: number,
  place: Place,
  out: Hidden,
): void {
  const at = (head * count + index) * BLOCK_BOUNDS;
  out.lowerStart = place(map[at + 1]);
  out.lowerEnd = place(map[at + 2]);
  out.upperStart = place(map[at + 5]);
  out.upperEnd = place(map[at + 6]);
  out.triangle = causal ? place(index * block) : 0;
}

/** The rows of `[0, rows)` that may see a key of the block. At most three ranges, in order. Writes to `out`. */
export function liveRows(
  {lowerStart, lowerEnd, upperStart, upperEnd, triangle}: Hidden,
  rows: number,
  out: Ranges,
): void {
  out.length = 0;
  const upperFirst = upperStart < lowerStart;
  let from = triangle;
  from = skip(out, from, upperFirst ? upperStart : lowerStart, upperFirst ? upperEnd : lowerEnd);
  from = skip(out, from, upperFirst ? lowerStart : upperStart, upperFirst ? lowerEnd : upperEnd);
  if (from < rows) out.push(from, rows);
}

/** Adds the rows from `from` up to a hidden interval to `out`. Returns its end, or `from` if it hides no more. */
function skip(out: Ranges, from: number, start: number, end: number): number {
  if (start >= end || end <= from) return from;
  if (start > from) out.push(from, start);
  return end;
}

/**
 * Adds up, for every block of `blockQ` rows, the key blocks of which it sees a pair, as `classifyTile` tells it.
 *
 * @param changes `[row blocks + 1]`: the count of each row block less that of the one before. Changed.
 */
export function addLiveBlocks(live: Ranges, blockQ: number, changes: Int32Array): void {
  let counted = 0;
  for (let i = 0; i < live.length; i += 2) {
    const first = Math.max(counted, Math.floor(live[i] / blockQ));
    const end = Math.ceil(live[i + 1] / blockQ);
    if (first >= end) continue;
    changes[first]++;
    changes[end]--;
    counted = end;
  }
}
