/**
 * @file The forward pass on the CPU: online softmax over the live key blocks of each query block (arXiv 2410.01359,
 * algorithm 1).
 */
import {TileKinds, type Range} from '../../mask/bounds/tile_kinds.js';
import {type Dropout, keepFactors} from '../../call/dropout.js';
import {type Problem, type Strides, stridesOf} from '../../call/problem.js';
import {addProductAB, pack, pad4, productABt} from './matrix.js';

/**
 * Tile sides. The tiles of one step (16 KiB each at 64 channels) stay in the caches. 64 is as fast on a full mask, but
 * skips fewer pairs.
 */
export const BLOCK_Q = 32;
export const BLOCK_K = 32;

/** Host arrays of a call, in the layout of the problem. */
export interface ForwardArrays {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  bounds: Int32Array;
}

/**
 * Arrays that a forward call fills, in the kernel's shapes. `rowStats` holds the maximum and the sum of each row in
 * base e.
 */
export interface ForwardResults {
  out: Float32Array;
  lse: Float32Array;
  rowStats: Float32Array;
}

/** Scores of at least this magnitude are rounded to float32. */
const LARGE_SCORE = 2 ** 30;

/**
 * A score as both passes use it. The row's maximum is stored as float32. Scores below 2³⁰ in magnitude stay float64:
 * they exceed the rounded maximum by at most 32, and exp(32) does not overflow. Larger scores are rounded to float32
 * and so do not exceed it.
 */
export function scoreOf(product: number): number {
  return Math.abs(product) < LARGE_SCORE ? product : Math.fround(product);
}

/** Fills `results`. `dropout` is null if nothing is dropped. */
export function forward(
  p: Problem,
  arrays: ForwardArrays,
  scale: number,
  dropout: Dropout | null,
  results: ForwardResults,
): void {
  const pass = new ForwardPass(p, arrays, scale, dropout, results);
  for (let b = 0; b < p.B; b++) {
    for (let h = 0; h < p.H; h++) {
      for (let block = 0; block < pass.tiles.queryBlocks; block++) pass.queryBlock(b, h, block);
    }
  }
}

class ForwardPass {
  readonly tiles: TileKinds;
  private readonly strides: {q: Strides; k: Strides; v: Strides; out: Strides};
  private readonly ldOut: number;
  private readonly qTile: Float64Array;
  private readonly kTile: Float64Array;
  private readonly vTile: Float64Array;
  /** Scores, then weights. */
  private readonly weights = new Float64Array(BLOCK_Q * BLOCK_K);
  private readonly factors = new Float64Array(BLOCK_K);
  private readonly outTile: Float64Array;
  /** 1 for each pair of the tile that is hidden. */
  private readonly hidden = new Uint8Array(BLOCK_Q * BLOCK_K);
  /** The number subtracted from a row's scores: the largest score so far, rounded to float32. */
  private readonly rowMax = new Float64Array(BLOCK_Q);
  private readonly rowSum = new Float64Array(BLOCK_Q);
  /** 1 for each row that has seen a key. */
  private readonly rowSees = new Uint8Array(BLOCK_Q);

  constructor(
    private readonly p: Problem,
    private readonly arrays: ForwardArrays,
    private readonly scale: number,
    private readonly dropout: Dropout | null,
    private readonly results: ForwardResults,
  ) {
    this.tiles = new TileKinds(p, arrays.bounds, BLOCK_Q, BLOCK_K);
    this.strides = {
      q: stridesOf(p.layout, p.Sq, p.H, p.D),
      k: stridesOf(p.layout, p.Sk, p.Hkv, p.D),
      v: stridesOf(p.layout, p.Sk, p.Hkv, p.Dv),
      out: stridesOf(p.layout, p.Sq, p.H, p.Dv),
    };
    this.ldOut = pad4(p.Dv);
    this.qTile = new Float64Array(BLOCK_Q * pad4(p.D));
    this.kTile = new Float64Array(BLOCK_K * pad4(p.D));
    this.vTile = new Float64Array(BLOCK_K * this.ldOut);
    this.outTile = new Float64Array(BLOCK_Q * this.ldOut);
  }

  queryBlock(b: number, h: number, block: number): void {
    const {p, strides} = this;
    const rows = this.tiles.rows(block);
    const count = rows.end - rows.begin;
    const at = b * strides.q.batch + h * strides.q.head + rows.begin * strides.q.row;
    pack(this.qTile, this.arrays.q, at, strides.q.row, count, p.D, this.scale);
    this.rowMax.fill(-Infinity);
    this.rowSum.fill(0);
    this.rowSees.fill(0);
    this.outTile.fill(0);
    for (let keyBlock = 0; keyBlock < this.tiles.keyBlocks; keyBlock++) {
      const kind = this.tiles.kind(b, h, block, keyBlock);
      if (kind !== 'empty') this.tile(b, h, rows, this.tiles.columns(keyBlock), kind === 'partial');
    }
    this.write(b, h, rows);
  }

  private tile(b: number, h: number, rows: Range, columns: Range, partial: boolean): void {
    const {p, arrays, strides, weights, hidden} = this;
    const hkv = Math.floor((h * p.Hkv) / p.H);
    const count = columns.end - columns.begin;
    const m = pad4(rows.end - rows.begin);
    const n = pad4(count);
    const {k, v} = strides;
    pack(this.kTile, arrays.k, b * k.batch + hkv * k.head + columns.begin * k.row, k.row, count, p.D);
    pack(this.vTile, arrays.v, b * v.batch + hkv * v.head + columns.begin * v.row, v.row, count, p.Dv);
    productABt(weights, this.qTile, this.kTile, m, n, pad4(p.D));
    if (partial) this.tiles.hide(hidden, n, b, h, rows, columns);
    else hidden.fill(0);
    this.softmax(rows.end - rows.begin, count, n);
    if (this.dropout) this.drop(this.dropout, b * p.H + h, rows, columns, n);
    addProductAB(this.outTile, 0, weights, this.vTile, m, this.ldOut, n, partial ? hidden : undefined);
  }

  /** Turns scores into exp(score - running maximum), and rescales the sums made with the former maximum. */
  private softmax(rows: number, columns: number, stride: number): void {
    const {weights, rowMax, rowSum} = this;
    for (let r = 0; r < rows; r++) {
      const begin = r * stride;
      const end = begin + columns;
      const max = this.newMax(r, begin, end);
      if (Number.isFinite(max)) {
        if (max !== rowMax[r]) this.rescale(r, Math.exp(rowMax[r] - max));
        rowSum[r] += this.exponentials(begin, end, max);
      } else {
        // The row has only seen scores of -Infinity, or `write` will set it to NaN.
        weights.fill(0, begin, end);
      }
      rowMax[r] = max;
      weights.fill(0, end, begin + stride);
    }
  }

  /** The largest score that a row has seen, rounded to float32; NaN if a visible score is NaN. */
  private newMax(r: number, begin: number, end: number): number {
    const {weights, hidden, rowSees} = this;
    let max = this.rowMax[r];
    for (let i = begin; i < end; i++) {
      if (hidden[i]) continue;
      max = Math.max(max, weights[i]);
      rowSees[r] = 1;
    }
    return Math.fround(max);
  }

  /** Turns the scores of a row into exp(score - max), 0 where hidden. Returns their sum. */
  private exponentials(begin: number, end: number, max: number): number {
    const {weights, hidden} = this;
    let sum = 0;
    for (let i = begin; i < end; i++) sum += weights[i] = hidden[i] ? 0 : Math.exp(scoreOf(weights[i]) - max);
    return sum;
  }

  private rescale(r: number, correction: number): void {
    const {rowSum, outTile, ldOut} = this;
    rowSum[r] *= correction;
    for (let i = r * ldOut; i < (r + 1) * ldOut; i++) outTile[i] *= correction;
  }

  private drop(dropout: Dropout, batchHead: number, rows: Range, columns: Range, stride: number): void {
    const {weights, factors} = this;
    const count = columns.end - columns.begin;
    for (let r = rows.begin; r < rows.end; r++) {
      keepFactors(factors, 0, dropout, batchHead, r, columns.begin, count);
      const begin = (r - rows.begin) * stride;
      for (let c = 0; c < count; c++) weights[begin + c] *= factors[c];
    }
  }

  private write(b: number, h: number, rows: Range): void {
    const {p, outTile, ldOut, rowMax, rowSum, rowSees} = this;
    const {out, lse, rowStats} = this.results;
    const {batch, head, row} = this.strides.out;
    for (let r = rows.begin; r < rows.end; r++) {
      const i = r - rows.begin;
      const target = b * batch + h * head + r * row;
      const at = (b * p.H + h) * p.Sq + r;
      const sees = rowSees[i] === 1;
      // As in dense attention: if the largest score is not finite, the score minus itself is NaN, and so is the whole
      // row.
      const max = Number.isFinite(rowMax[i]) ? rowMax[i] : 0;
      const sum = Number.isFinite(rowMax[i]) || !sees ? rowSum[i] : NaN;
      for (let c = 0; c < p.Dv; c++) out[target + c] = sees ? outTile[i * ldOut + c] / sum : 0;
      lse[at] = sees ? max + Math.log(sum) : -Infinity;
      rowStats[2 * at] = max;
      rowStats[2 * at + 1] = sum;
    }
  }
}
