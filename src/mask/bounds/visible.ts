/**
 * @file The visible rows of a key column as ranges, which the dense form, the sparsity and the pictures are computed
 * from.
 */
import {type HostBounds, type Interval, type Intervals, intervalsAt} from './intervals.js';
import {type TileKind, visitTiles} from './classify.js';

/** The visible query rows of key column j: at most three ranges, in order, none empty. */
export function visibleRows(mask: HostBounds, batch: number, head: number, j: number): Interval[] {
  const {bounds, vectors, causal, heads, queryLength, keyLength} = mask;
  const index = (batch * heads + head) * keyLength + j;
  const [LTS, LTE, UTS, UTE]: Intervals = intervalsAt(bounds, vectors, causal, index);
  const masked: Interval[] = UTS <= LTS ? [[UTS, UTE], [LTS, LTE]] : [[LTS, LTE], [UTS, UTE]]; // prettier-ignore
  const ranges: Interval[] = [];
  let from = causal ? Math.max(0, j - (keyLength - queryLength)) : 0;
  for (const [start, end] of masked) {
    if (start >= end || end <= from) continue;
    if (start > from) ranges.push([from, Math.min(start, queryLength)]);
    from = end;
    if (from >= queryLength) break;
  }
  if (from < queryLength) ranges.push([from, queryLength]);
  return ranges.filter(([start, end]) => start < end && start < queryLength);
}

/** How much a mask leaves out, as fractions from 0 to 1, over all its batches and heads. */
export interface Sparsity {
  /** Masked (query, key) pairs. */
  maskedPairs: number;
  /** Tiles without a visible pair: never computed. */
  emptyTiles: number;
  /** Tiles whose pairs are masked one by one. */
  partialTiles: number;
  /** Tiles without a masked pair: no mask work. */
  fullTiles: number;
}

/** Counts masked pairs exactly, and tiles as the kernels classify them. */
export function sparsityOf(mask: HostBounds, blockQ: number, blockK: number): Sparsity {
  let visible = 0;
  const counts: Record<TileKind, number> = {empty: 0, partial: 0, full: 0};
  for (let batch = 0; batch < mask.batch; batch++) {
    for (let head = 0; head < mask.heads; head++) {
      for (let j = 0; j < mask.keyLength; j++) {
        for (const [start, end] of visibleRows(mask, batch, head, j)) visible += end - start;
      }
      // Counted one by one, because a long mask has too many tiles to store.
      visitTiles(mask, blockQ, blockK, batch, head, (kind) => counts[kind]++);
    }
  }
  const tiles = counts.empty + counts.partial + counts.full;
  const pairs = mask.batch * mask.heads * mask.queryLength * mask.keyLength;
  return {
    maskedPairs: 1 - visible / pairs,
    emptyTiles: counts.empty / tiles,
    partialTiles: counts.partial / tiles,
    fullTiles: counts.full / tiles,
  };
}
