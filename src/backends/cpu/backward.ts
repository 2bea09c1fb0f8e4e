/**
 * @file The backward pass on the CPU: for each key block it visits the live query blocks and recomputes the weights
 * from each row's maximum and sum (arXiv 2410.01359, algorithm 2).
 */
import {TileKinds, type Range} from '../../mask/bounds/tile_kinds.js';
import {type Dropout, keepFactors} from '../../call/dropout.js';
import {type Problem, type Strides, stridesOf} from '../../call/problem.js';
import {BLOCK_K, BLOCK_Q, type ForwardArrays, scoreOf} from './forward.js';
import {addProductAB, addProductAtB, pack, pad4, productABt} from './matrix.js';

/** Host arrays of a gradient call. */
export interface BackwardArrays extends ForwardArrays {
  out: Float32Array;
  rowStats: Float32Array;
  dOut: Float32Array;
  dLse: Float32Array;
}

/** Gradients to fill, shaped like q, k and v. */
export interface Gradients {
  dq: Float32Array;
  dk: Float32Array;
  dv: Float32Array;
}

/** Fills the gradients. `dropout` is null if nothing is dropped. */
export function backward(
  p: Problem,
  arrays: BackwardArrays,
  scale: number,
  dropout: Dropout | null,
  gradients: Gradients,
): void {
  const pass = new BackwardPass(p, arrays, scale, dropout, gradients);
  for (let b = 0; b < p.B; b++) {
    for (let hkv = 0; hkv < p.Hkv; hkv++) {
      pass.begin(b, hkv);
      for (let block = 0; block < pass.tiles.keyBlocks; block++) pass.keyBlock(b, hkv, block);
      pass.writeDq(b, hkv);
    }
  }
}

class BackwardPass {
  readonly tiles: TileKinds;
  private readonly strides: {q: Strides; k: Strides; v: Strides; out: Strides};
  /** Query heads per key head. */
  private readonly group: number;
  private readonly ldD: number;
  private readonly ldDv: number;
  private readonly qTile: Float64Array;
  private readonly kTile: Float64Array;
  private readonly vTile: Float64Array;
  private readonly dOutTile: Float64Array;
  /** Scores, then weights. */
  private readonly weights = new Float64Array(BLOCK_Q * BLOCK_K);
  /** Gradients of the weights, then of the scores. */
  private readonly dScores = new Float64Array(BLOCK_Q * BLOCK_K);
  /** 1 for each pair of the tile that is hidden. */
  private readonly hidden = new Uint8Array(BLOCK_Q * BLOCK_K);
  private readonly factors = new Float64Array(BLOCK_K).fill(1);
  private readonly dkTile: Float64Array;
  private readonly dvTile: Float64Array;
  /**
   * dq of the query heads of one key head, `[group, pad4(Sq), ldD]`: summed over key blocks in float64 and rounded once
   * at the end.
   */
  private readonly dqSum: Float64Array;
  /** `[group, Sq]`: delta - dLse, with delta = rowsum(dOut * out). */
  private readonly rowShift: Float64Array;

  constructor(
    private readonly p: Problem,
    private readonly arrays: BackwardArrays,
    private readonly scale: number,
    private readonly dropout: Dropout | null,
    private readonly gradients: Gradients,
  ) {
    this.tiles = new TileKinds(p, arrays.bounds, BLOCK_Q, BLOCK_K);
    this.strides = {
      q: stridesOf(p.layout, p.Sq, p.H, p.D),
      k: stridesOf(p.layout, p.Sk, p.Hkv, p.D),
      v: stridesOf(p.layout, p.Sk, p.Hkv, p.Dv),
      out: stridesOf(p.layout, p.Sq, p.H, p.Dv),
    };
    this.group = p.H / p.Hkv;
    this.ldD = pad4(p.D);
    this.ldDv = pad4(p.Dv);
    this.qTile = new Float64Array(BLOCK_Q * this.ldD);
    this.kTile = new Float64Array(BLOCK_K * this.ldD);
    this.vTile = new Float64Array(BLOCK_K * this.ldDv);
    this.dOutTile = new Float64Array(BLOCK_Q * this.ldDv);
    this.dkTile = new Float64Array(BLOCK_K * this.ldD);
    this.dvTile = new Float64Array(BLOCK_K * this.ldDv);
    this.dqSum = new Float64Array(this.group * pad4(p.Sq) * this.ldD);
    this.rowShift = new Float64Array(this.group * p.Sq);
  }

  /** Clears dq and computes the row shifts of one key head's query heads. */
  begin(b: number, hkv: number): void {
    const {p, arrays, rowShift} = this;
    const {batch, head, row} = this.strides.out;
    this.dqSum.fill(0);
    for (let g = 0; g < this.group; g++) {
      const h = hkv * this.group + g;
      for (let r = 0; r < p.Sq; r++) {
        const at = b * batch + h * head + r * row;
        let delta = 0;
        for (let c = 0; c < p.Dv; c++) delta += arrays.dOut[at + c] * arrays.out[at + c];
        rowShift[g * p.Sq + r] = delta - arrays.dLse[(b * p.H + h) * p.Sq + r];
      }
    }
  }

  keyBlock(b: number, hkv: number, block: number): void {
    const {p, arrays, tiles} = this;
    const {k, v} = this.strides;
    const columns = tiles.columns(block);
    const count = columns.end - columns.begin;
    const kAt = b * k.batch + hkv * k.head + columns.begin * k.row;
    const vAt = b * v.batch + hkv * v.head + columns.begin * v.row;
    pack(this.kTile, arrays.k, kAt, k.row, count, p.D);
    pack(this.vTile, arrays.v, vAt, v.row, count, p.Dv);
    this.dkTile.fill(0);
    this.dvTile.fill(0);
    for (let g = 0; g < this.group; g++) {
      const h = hkv * this.group + g;
      for (let queryBlock = 0; queryBlock < tiles.queryBlocks; queryBlock++) {
        const kind = tiles.kind(b, h, queryBlock, block);
        if (kind !== 'empty') this.tile(b, h, g, tiles.rows(queryBlock), columns, kind === 'partial');
      }
    }
    unpack(this.gradients.dk, kAt, k.row, this.dkTile, 0, count, p.D, 1);
    unpack(this.gradients.dv, vAt, v.row, this.dvTile, 0, count, p.Dv, 1);
  }

  private tile(b: number, h: number, g: number, rows: Range, columns: Range, partial: boolean): void {
    const {p, arrays, weights, dScores, hidden, ldD, ldDv} = this;
    const {q, out} = this.strides;
    const count = rows.end - rows.begin;
    const m = pad4(count);
    const n = pad4(columns.end - columns.begin);
    // The scale is folded into q, which scales S and dk = dSᵀ q.
    pack(this.qTile, arrays.q, b * q.batch + h * q.head + rows.begin * q.row, q.row, count, p.D, this.scale);
    pack(this.dOutTile, arrays.dOut, b * out.batch + h * out.head + rows.begin * out.row, out.row, count, p.Dv);
    productABt(weights, this.qTile, this.kTile, m, n, ldD);
    productABt(dScores, this.dOutTile, this.vTile, m, n, ldDv);
    if (partial) this.tiles.hide(hidden, n, b, h, rows, columns);
    else hidden.fill(0);
    this.scoreGradients(b, h, g, rows, columns, n);
    const dqAt = (g * pad4(p.Sq) + rows.begin) * ldD;
    const ofPartial = partial ? hidden : undefined;
    addProductAtB(this.dvTile, 0, weights, this.dOutTile, n, ldDv, m, ofPartial);
    addProductAtB(this.dkTile, 0, dScores, this.qTile, n, ldD, m, ofPartial);
    addProductAB(this.dqSum, dqAt, dScores, this.kTile, m, ldD, n, ofPartial);
  }

  /**
   * Turns scores into dropped weights, and gradients of the dropped weights into gradients of the scores. Both are 0
   * where hidden.
   */
  private scoreGradients(b: number, h: number, g: number, rows: Range, columns: Range, stride: number): void {
    const {p, weights, dScores, hidden, factors, dropout} = this;
    const {rowStats} = this.arrays;
    const count = columns.end - columns.begin;
    for (let r = rows.begin; r < rows.end; r++) {
      const begin = (r - rows.begin) * stride;
      const at = (b * p.H + h) * p.Sq + r;
      const [max, sum] = [rowStats[2 * at], rowStats[2 * at + 1]];
      if (dropout) keepFactors(factors, 0, dropout, b * p.H + h, r, columns.begin, count);
      const shift = this.rowShift[g * p.Sq + r];
      for (let c = 0; c < count; c++) {
        const i = begin + c;
        // Selected by the mask and not multiplied by 0, because 0 · NaN is NaN.
        const weight = hidden[i] ? 0 : Math.exp(scoreOf(weights[i]) - max) / sum;
        weights[i] = weight * factors[c];
        dScores[i] = hidden[i] ? 0 : weight * (dScores[i] * factors[c] - shift);
      }
      weights.fill(0, begin + count, begin + stride);
      dScores.fill(0, begin + count, begin + stride);
    }
    weights.fill(0, (rows.end - rows.begin) * stride, pad4(rows.end - rows.begin) * stride);
    dScores.fill(0, (rows.end - rows.begin) * stride, pad4(rows.end - rows.begin) * stride);
  }

  writeDq(b: number, hkv: number): void {
    const {p, ldD} = this;
    const {batch, head, row} = this.strides.q;
    for (let g = 0; g < this.group; g++) {
      const at = b * batch + (hkv * this.group + g) * head;
      unpack(this.gradients.dq, at, row, this.dqSum, g * pad4(p.Sq) * ldD, p.Sq, p.D, this.scale);
    }
  }
}

/** Copies a padded tile, times `factor`, to `rows x columns` floats. */
function unpack(
  to: Float32Array,
  at: number,
  rowStride: number,
  tile: Float64Array,
  tileAt: number,
  rows: number,
  columns: number,
  factor: number,
): void {
  const stride = pad4(columns);
  for (let r = 0; r < rows; r++) {
    const target = at + r * rowStride;
    const source = tileAt + r * stride;
    for (let c = 0; c < columns; c++) to[target + c] = tile[source + c] * factor;
  }
}
