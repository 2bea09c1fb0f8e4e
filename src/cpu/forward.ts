/** @file The forward pass on the CPU: online softmax over the live key blocks of each query block (arXiv 2410.01359, algorithm 1). */
import {HostTiles, type Range} from '../host_tiles.js';
import {type Dropout, keepFactors} from '../philox.js';
import {type Problem, type Strides, stridesOf} from '../problem.js';
import {addProductAB, pack, pad4, productABt} from './matrix.js';

/** Tile sides: the tiles of one step (16 KiB each at 64 channels) stay in the caches. 64 is as fast on a full mask, but skips less. */
export const BLOCK_Q = 32;
export const BLOCK_K = 32;

/** Host arrays of a call, in the layout of the problem. */
export interface ForwardArrays {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  bounds: Int32Array;
}

/** Fills `out` and `lse` (both in the kernel's shapes). `dropout` is null if nothing is dropped. */
export function forward(
  p: Problem,
  arrays: ForwardArrays,
  scale: number,
  dropout: Dropout | null,
  out: Float32Array,
  lse: Float32Array,
): void {
  const pass = new ForwardPass(p, arrays, scale, dropout, out, lse);
  for (let b = 0; b < p.B; b++) {
    for (let h = 0; h < p.H; h++) {
      for (let block = 0; block < pass.tiles.queryBlocks; block++) pass.queryBlock(b, h, block);
    }
  }
}

class ForwardPass {
  readonly tiles: HostTiles;
  private readonly strides: {q: Strides; k: Strides; v: Strides; out: Strides};
  private readonly ldOut: number;
  private readonly qTile: Float64Array;
  private readonly kTile: Float64Array;
  private readonly vTile: Float64Array;
  /** Scores, then weights. */
  private readonly weights = new Float64Array(BLOCK_Q * BLOCK_K);
  private readonly factors = new Float64Array(BLOCK_K);
  private readonly outTile: Float64Array;
  private readonly rowMax = new Float64Array(BLOCK_Q);
  private readonly rowSum = new Float64Array(BLOCK_Q);

  constructor(
    private readonly p: Problem,
    private readonly arrays: ForwardArrays,
    private readonly scale: number,
    private readonly dropout: Dropout | null,
    private readonly out: Float32Array,
    private readonly lse: Float32Array,
  ) {
    this.tiles = new HostTiles(p, arrays.bounds, BLOCK_Q, BLOCK_K);
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
    this.outTile.fill(0);
    for (let keyBlock = 0; keyBlock < this.tiles.keyBlocks; keyBlock++) {
      const kind = this.tiles.kind(b, h, block, keyBlock);
      if (kind !== 'empty') this.tile(b, h, rows, this.tiles.columns(keyBlock), kind === 'partial');
    }
    this.write(b, h, rows);
  }

  private tile(b: number, h: number, rows: Range, columns: Range, partial: boolean): void {
    const {p, arrays, strides, weights} = this;
    const hkv = Math.floor((h * p.Hkv) / p.H);
    const count = columns.end - columns.begin;
    const m = pad4(rows.end - rows.begin);
    const n = pad4(count);
    const {k, v} = strides;
    pack(this.kTile, arrays.k, b * k.batch + hkv * k.head + columns.begin * k.row, k.row, count, p.D);
    pack(this.vTile, arrays.v, b * v.batch + hkv * v.head + columns.begin * v.row, v.row, count, p.Dv);
    productABt(weights, this.qTile, this.kTile, m, n, pad4(p.D));
    if (partial) this.tiles.hide(weights, n, b, h, rows, columns);
    this.softmax(rows.end - rows.begin, count, n);
    if (this.dropout) this.drop(this.dropout, b * p.H + h, rows, columns, n);
    addProductAB(this.outTile, 0, weights, this.vTile, m, this.ldOut, n);
  }

  /** Turns scores into exp(score - running maximum), and rescales what was summed under the former maximum. */
  private softmax(rows: number, columns: number, stride: number): void {
    const {weights, rowMax, rowSum, outTile, ldOut} = this;
    for (let r = 0; r < rows; r++) {
      const begin = r * stride;
      const end = begin + columns;
      let max = rowMax[r];
      for (let i = begin; i < end; i++) max = Math.max(max, weights[i]);
      let sum = 0;
      if (max === -Infinity) {
        weights.fill(0, begin, end); // Nothing visible yet: exp(-Infinity + Infinity) would be NaN.
      } else {
        for (let i = begin; i < end; i++) sum += weights[i] = Math.exp(weights[i] - max);
        if (max !== rowMax[r]) {
          const correction = Math.exp(rowMax[r] - max);
          rowSum[r] *= correction;
          for (let i = r * ldOut; i < (r + 1) * ldOut; i++) outTile[i] *= correction;
          rowMax[r] = max;
        }
      }
      rowSum[r] += sum;
      weights.fill(0, end, begin + stride);
    }
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
    const {p, out, lse, outTile, ldOut, rowMax, rowSum} = this;
    const {batch, head, row} = this.strides.out;
    for (let r = rows.begin; r < rows.end; r++) {
      const i = r - rows.begin;
      const empty = rowMax[i] === -Infinity;
      const factor = empty ? 0 : 1 / rowSum[i];
      const target = b * batch + h * head + r * row;
      for (let c = 0; c < p.Dv; c++) out[target + c] = outTile[i * ldOut + c] * factor;
      lse[(b * p.H + h) * p.Sq + r] = empty ? -Infinity : rowMax[i] + Math.log(rowSum[i]);
    }
  }
}
