/**
 * @file Computes on the host which tiles of a call are empty, partial or full, and which pairs of a partial tile are
 * hidden.
 */
import {BLOCK_BOUNDS, type TileKind, classifyTile, boundsMap} from './classify.js';
import {type Intervals, type Vectors, intervalsAt} from './intervals.js';
import {type Problem, maskHeadOf} from '../../call/problem.js';

/** Rows or columns of one block: first, and one past the last. */
export interface Range {
  begin: number;
  end: number;
}

/**
 * The kinds of the tiles of a call. Memory is linear in the lengths, because a kind is computed when it is asked for.
 */
export class TileKinds {
  readonly queryBlocks: number;
  readonly keyBlocks: number;
  /** `[maskB, Hm, Sk, 4]`: LTS, LTE, UTS, UTE of each column. */
  private readonly intervals: Int32Array;
  /** `[maskB, Hm, keyBlocks, 8]` */
  private readonly boundsMap: Int32Array;

  /** @param bounds `[maskB, Hm, Sk, n]` as kernels receive them. */
  constructor(
    private readonly p: Problem,
    bounds: Int32Array,
    private readonly blockQ: number,
    private readonly blockK: number,
  ) {
    this.queryBlocks = Math.ceil(p.Sq / blockQ);
    this.keyBlocks = Math.ceil(p.Sk / blockK);
    const columns = p.maskB * p.Hm * p.Sk;
    this.intervals = new Int32Array(columns * 4);
    const column: Intervals = [0, 0, 0, 0];
    for (let i = 0; i < columns; i++) this.intervals.set(intervalsAt(bounds, p.n, p.causal, i, column), i * 4);
    const {maskB: batch, Hm: heads, Sq: queryLength, Sk: keyLength, causal} = p;
    const host = {bounds, batch, heads, queryLength, keyLength, causal, vectors: p.n as Vectors};
    this.boundsMap = boundsMap(host, blockK);
  }

  rows(queryBlock: number): Range {
    const begin = queryBlock * this.blockQ;
    return {begin, end: Math.min(begin + this.blockQ, this.p.Sq)};
  }

  columns(keyBlock: number): Range {
    const begin = keyBlock * this.blockK;
    return {begin, end: Math.min(begin + this.blockK, this.p.Sk)};
  }

  /** Kind of a tile for batch b and query head h. */
  kind(b: number, h: number, queryBlock: number, keyBlock: number): TileKind {
    const {p, blockQ, blockK} = this;
    const at = (maskHeadOf(p, b, h) * this.keyBlocks + keyBlock) * BLOCK_BOUNDS;
    const r0 = queryBlock * blockQ;
    const c0 = keyBlock * blockK;
    const r1 = Math.min(r0 + blockQ, p.Sq);
    const c1 = Math.min(c0 + blockK, p.Sk);
    return classifyTile(this.boundsMap, at, p.causal, r0, r1, c0, c1, p.Sk - p.Sq);
  }

  /** Kind of a tile for all batches and heads at once: empty or full only if it is so for each of them. */
  kindForAll(queryBlock: number, keyBlock: number): TileKind {
    const {maskB, Hm, H} = this.p;
    const first = this.kind(0, 0, queryBlock, keyBlock);
    for (let b = 0; b < maskB; b++) {
      for (let m = 0; m < Hm; m++) {
        if (this.kind(b, (m * H) / Hm, queryBlock, keyBlock) !== first) return 'partial';
      }
    }
    return first;
  }

  /** Writes 1 for the hidden pairs of a row-major tile and 0 for all others. */
  hide(hidden: Uint8Array, stride: number, b: number, h: number, rows: Range, columns: Range): void {
    const {p, intervals} = this;
    const first = maskHeadOf(p, b, h) * p.Sk;
    const offset = p.Sk - p.Sq;
    hidden.fill(0);
    for (let j = columns.begin; j < columns.end; j++) {
      const at = (first + j) * 4;
      const c = j - columns.begin;
      if (p.causal) hideRows(hidden, stride, c, rows, 0, j - offset);
      hideRows(hidden, stride, c, rows, intervals[at], intervals[at + 1]);
      hideRows(hidden, stride, c, rows, intervals[at + 2], intervals[at + 3]);
    }
  }
}

function hideRows(hidden: Uint8Array, stride: number, c: number, rows: Range, from: number, to: number): void {
  const end = Math.min(to, rows.end);
  for (let r = Math.max(from, rows.begin); r < end; r++) hidden[(r - rows.begin) * stride + c] = 1;
}
