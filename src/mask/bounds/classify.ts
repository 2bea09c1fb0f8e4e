/**
 * @file Classifies the tiles of a mask as empty, partial or full from the bounds map alone: the smallest and largest
 * bounds of each block of key columns (arXiv 2410.01359, section 4.2). Pure functions on host arrays.
 */
import {type HostBounds, type Intervals, intervalsAt} from './intervals.js';

/**
 * 'empty': every pair is masked. 'full': none is. 'partial': anything else, or not provable from the smallest and
 * largest bounds.
 */
export type TileKind = 'empty' | 'partial' | 'full';

/** Numbers per key block in `boundsMap`. */
export const BLOCK_BOUNDS = 8;

/**
 * The smallest and largest canonical bounds of each block of `blockK` key columns; the last block may be shorter.
 *
 * @returns `[batch, heads, ceil(keyLength / blockK), 8]`, row-major, each block as LTSmin LTSmax LTEmin LTEmax UTSmin
 *   UTSmax UTEmin UTEmax.
 */
export function boundsMap(mask: HostBounds, blockK: number): Int32Array {
  const {bounds, vectors, causal, keyLength} = mask;
  const blocks = Math.ceil(keyLength / blockK);
  const rows = mask.batch * mask.heads;
  const result = new Int32Array(rows * blocks * BLOCK_BOUNDS);
  const column: Intervals = [0, 0, 0, 0];
  for (let row = 0; row < rows; row++) {
    for (let j = 0; j < keyLength; j++) {
      const at = (row * blocks + Math.floor(j / blockK)) * BLOCK_BOUNDS;
      intervalsAt(bounds, vectors, causal, row * keyLength + j, column);
      const first = j % blockK === 0;
      for (let i = 0; i < 4; i++) {
        const low = at + 2 * i;
        result[low] = first ? column[i] : Math.min(result[low], column[i]);
        result[low + 1] = first ? column[i] : Math.max(result[low + 1], column[i]);
      }
    }
  }
  return result;
}

/**
 * The kind of the tile of query rows `[r0, r1)` and key columns `[c0, c1)`. Copies in other languages say
 * TWIN: src/mask/bounds/classify.ts.
 *
 * 'empty' and 'full' are never wrong, and are returned whenever the smallest and largest bounds prove them:
 * - The least masked column that the bounds allow has the largest starts and the smallest ends. It is taken as the
 *   first column, where the causal triangle masks the fewest rows. The tile is empty if the triangle and the intervals
 *   of that column, in either order, cover r0 to r1.
 * - The most masked column that the bounds allow has the smallest starts and the largest ends. The tile is full if no
 *   interval of that column meets the rows and the triangle does not reach its last column.
 *
 * @param map From `boundsMap`.
 * @param at Where the key block begins in `map`.
 * @param causal Whether r < j - offset is masked.
 * @param r0 First row.
 * @param r1 End of the rows, clamped to Sq.
 * @param c0 First column.
 * @param c1 End of the columns, clamped to Sk.
 * @param offset Sk - Sq.
 */
export function classifyTile(
  map: ArrayLike<number>,
  at: number,
  causal: boolean,
  r0: number,
  r1: number,
  c0: number,
  c1: number,
  offset: number,
): TileKind {
  let reached = causal ? Math.max(r0, c0 - offset) : r0;
  // Twice, because the upper interval may end where the lower one starts, or the other way round.
  for (let i = 0; i < 2; i++) {
    if (map[at + 1] <= reached) reached = Math.max(reached, map[at + 2]);
    if (map[at + 5] <= reached) reached = Math.max(reached, map[at + 6]);
  }
  if (reached >= r1) return 'empty';
  const belowTriangle = !causal || r0 >= c1 - 1 - offset;
  return belowTriangle && misses(map, at, r0, r1) && misses(map, at + 4, r0, r1) ? 'full' : 'partial';
}

/** Whether the interval from the smallest start to the largest end has no row in [r0, r1). */
function misses(map: ArrayLike<number>, at: number, r0: number, r1: number): boolean {
  const start = map[at];
  const end = map[at + 3];
  return r1 <= start || r0 >= end || start >= end;
}

/** The kinds of the tiles of one batch and head of a mask. */
export interface TileGrid {
  blockQ: number;
  blockK: number;
  /** Query blocks. */
  rows: number;
  /** Key blocks. */
  columns: number;
  /** Row-major `rows x columns`. */
  kinds: TileKind[];
}

/** Classifies all tiles of one batch and head of a mask on the host. */
export function tileKinds(mask: HostBounds, blockQ: number, blockK: number, batch = 0, head = 0): TileGrid {
  const kinds: TileKind[] = [];
  visitTiles(mask, blockQ, blockK, batch, head, (kind) => kinds.push(kind));
  const rows = Math.ceil(mask.queryLength / blockQ);
  const columns = Math.ceil(mask.keyLength / blockK);
  return {blockQ, blockK, rows, columns, kinds};
}

/** Calls `visit` for the tiles of one batch and head of a mask, row by row. */
export function visitTiles(
  mask: HostBounds,
  blockQ: number,
  blockK: number,
  batch: number,
  head: number,
  visit: (kind: TileKind) => void,
): void {
  const {queryLength, keyLength, causal, vectors} = mask;
  const columns = Math.ceil(keyLength / blockK);
  const from = (batch * mask.heads + head) * keyLength * vectors;
  const bounds = mask.bounds && mask.bounds.subarray(from, from + keyLength * vectors);
  const map = boundsMap({...sizesOf(mask), bounds, batch: 1, heads: 1}, blockK);
  for (let r0 = 0; r0 < queryLength; r0 += blockQ) {
    const r1 = Math.min(r0 + blockQ, queryLength);
    for (let block = 0; block < columns; block++) {
      const c0 = block * blockK;
      const c1 = Math.min(c0 + blockK, keyLength);
      visit(classifyTile(map, block * BLOCK_BOUNDS, causal, r0, r1, c0, c1, keyLength - queryLength));
    }
  }
}

function sizesOf({
  queryLength,
  keyLength,
  causal,
  vectors,
}: HostBounds): Omit<HostBounds, 'bounds' | 'batch' | 'heads'> {
  return {queryLength, keyLength, causal, vectors};
}
