/**
 * @file Which tiles of a mask are empty, partial or full, told from the smallest and largest bounds of each block of key columns
 * alone (arXiv 2410.01359, section 4.2). Pure functions on host arrays; the WGSL tile map mirrors `classifyTile` line for line.
 */

/** 'empty': every pair is masked. 'full': none is. 'partial': anything else, or not provable from the smallest and largest bounds. */
export type TileKind = 'empty' | 'partial' | 'full';

/** Bounds per key column: none, LTS, two of them, or LTS, LTE, UTS, UTE. */
export type Vectors = 0 | 1 | 2 | 4;

/** The masked query rows of one key column: `[LTS, LTE) ∪ [UTS, UTE)`, in this order. */
export type Intervals = [LTS: number, LTE: number, UTS: number, UTE: number];

/** The end of an interval that has none, and the start of one that has none: the ends of int32. */
export const MAX_BOUND = 2147483647;
export const MIN_BOUND = -2147483648;

/** Numbers a key block has in `columnBlockBounds`. */
export const BLOCK_BOUNDS = 8;

/** Row bounds on the host, with the sizes that give them their meaning. A `FlashMask` that is on the host is one. */
export interface HostBounds {
  /** `[batch, heads, keyLength, vectors]`, row-major. */
  readonly bounds: Int32Array | null;
  readonly batch: number;
  readonly heads: number;
  readonly queryLength: number;
  readonly keyLength: number;
  readonly vectors: Vectors;
  readonly causal: boolean;
}

/**
 * The canonical four bounds of a column, whatever its form:
 *
 * | causal | vectors | result                  |
 * |--------|---------|-------------------------|
 * | any    | 0       | [0, 0, 0, 0]            |
 * | true   | 1       | [LTS, MAX, 0, 0]        |
 * | true   | 2       | [LTS, LTE, 0, 0]        |
 * | false  | 2       | [LTS, MAX, MIN, UTE]    |
 * | false  | 4       | [LTS, LTE, UTS, UTE]    |
 *
 * @param bounds Row-major `[..., vectors]`.
 * @param index The column, counted over batches and heads: `(batch * heads + head) * keyLength + j`.
 * @param out Filled and returned, to spare hot loops the allocation.
 */
export function intervalsAt(
  bounds: ArrayLike<number> | null,
  vectors: number,
  causal: boolean,
  index: number,
  out: Intervals = [0, 0, 0, 0],
): Intervals {
  out.fill(0);
  if (vectors === 0) return out;
  const at = index * vectors;
  out[0] = bounds![at];
  if (vectors === 4) {
    for (let i = 1; i < 4; i++) out[i] = bounds![at + i];
  } else if (vectors === 1) {
    out[1] = MAX_BOUND;
  } else if (causal) {
    out[1] = bounds![at + 1];
  } else {
    out[1] = MAX_BOUND;
    out[2] = MIN_BOUND;
    out[3] = bounds![at + 1];
  }
  return out;
}

/**
 * The smallest and largest canonical bounds of each block of `blockK` key columns; the last block may be shorter.
 *
 * @returns `[batch, heads, ceil(keyLength / blockK), 8]`, row-major, each block as LTSmin LTSmax LTEmin LTEmax UTSmin UTSmax UTEmin
 *   UTEmax.
 */
export function columnBlockBounds(mask: HostBounds, blockK: number): Int32Array {
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
 * The kind of the tile of query rows `[r0, r1)` and key columns `[c0, c1)`.
 *
 * Never 'empty' or 'full' when it is not, and always when the smallest and largest bounds can prove it:
 * - The least masked column that they allow has the largest starts and the smallest ends, and is the first one, which the causal
 *   triangle reaches least. The tile is empty if the triangle and the intervals of that column, in either order, reach from r0 to r1.
 * - The most masked column that they allow has the smallest starts and the largest ends. The tile is full if no interval of that
 *   column meets the rows and the triangle does not reach its last column.
 *
 * @param minmax From `columnBlockBounds`.
 * @param at Where the key block begins in `minmax`.
 * @param causal Whether r < j - offset is masked.
 * @param r0 First row.
 * @param r1 End of the rows, clamped to Sq.
 * @param c0 First column.
 * @param c1 End of the columns, clamped to Sk.
 * @param offset Sk - Sq.
 */
export function classifyTile(
  minmax: ArrayLike<number>,
  at: number,
  causal: boolean,
  r0: number,
  r1: number,
  c0: number,
  c1: number,
  offset: number,
): TileKind {
  let reached = causal ? Math.max(r0, c0 - offset) : r0;
  // Twice: the upper interval may carry on to where the lower one begins, or the other way round.
  for (let i = 0; i < 2; i++) {
    if (minmax[at + 1] <= reached) reached = Math.max(reached, minmax[at + 2]);
    if (minmax[at + 5] <= reached) reached = Math.max(reached, minmax[at + 6]);
  }
  if (reached >= r1) return 'empty';
  const belowTriangle = !causal || r0 >= c1 - 1 - offset;
  return belowTriangle && misses(minmax, at, r0, r1) && misses(minmax, at + 4, r0, r1) ? 'full' : 'partial';
}

/** Whether no interval from the start's smallest to the end's largest value has a row in [r0, r1). */
function misses(minmax: ArrayLike<number>, at: number, r0: number, r1: number): boolean {
  const start = minmax[at];
  const end = minmax[at + 3];
  return r1 <= start || r0 >= end || start >= end;
}

/** The tiles of one batch and head of a mask. */
export interface TileMap {
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
export function tileMap(mask: HostBounds, blockQ: number, blockK: number, batch = 0, head = 0): TileMap {
  const kinds: TileKind[] = [];
  visitTiles(mask, blockQ, blockK, batch, head, (kind) => kinds.push(kind));
  const rows = Math.ceil(mask.queryLength / blockQ);
  const columns = Math.ceil(mask.keyLength / blockK);
  return {blockQ, blockK, rows, columns, kinds};
}

/** Calls back for the tiles of one batch and head of a mask, row by row. */
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
  const minmax = columnBlockBounds({...sizesOf(mask), bounds, batch: 1, heads: 1}, blockK);
  for (let r0 = 0; r0 < queryLength; r0 += blockQ) {
    const r1 = Math.min(r0 + blockQ, queryLength);
    for (let block = 0; block < columns; block++) {
      const c0 = block * blockK;
      const c1 = Math.min(c0 + blockK, keyLength);
      visit(classifyTile(minmax, block * BLOCK_BOUNDS, causal, r0, r1, c0, c1, keyLength - queryLength));
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
