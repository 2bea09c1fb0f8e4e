/**
 * @file Splits one call into blocks, as tfjs tensors: slices of queries and keys, and the tiles of their pairs. The
 * query heads of a key head are folded into the rows, because a rank-4 matMul that broadcasts has no gradient in tfjs.
 */
import {
  type Tensor,
  type Tensor4D,
  broadcastTo,
  concat,
  engine,
  greaterEqual,
  less,
  logicalAnd,
  logicalOr,
  range,
  reshape,
  slice,
  tensor4d,
  tile,
  transpose,
} from '@tensorflow/tfjs-core';
import {TileKinds} from '../../mask/bounds/tile_kinds.js';
import type {FlashMaskAttentionAttrs} from '../../call/kernel_names.js';
import {hostBoundsOf} from '../../mask/bounds/bounds_cache.js';
import type {TileKind} from '../../mask/bounds/classify.js';
import {formOf} from '../../mask/bounds/intervals.js';
import {dropoutOf, keepFactors} from '../../call/dropout.js';
import {type Problem, problemOf} from '../../call/problem.js';
import {Tile} from './tile.js';

/**
 * Rows and columns of a tile. On wasm, 64 and 512 were slower on full masks. 256 was slower on short documents, because
 * it skips fewer pairs.
 */
const BLOCK = 128;

/** Backends that read back at no cost. On these a mask in a tensor can be classified, and values can be inspected. */
const HOST_BACKENDS = ['cpu', 'wasm', 'tensorflow'];

/** The forward kernel's inputs as tensors. */
export interface ForwardTensors {
  q: Tensor;
  k: Tensor;
  v: Tensor;
  bounds: Tensor;
}

export class Blocks {
  readonly p: Problem;
  readonly queryBlocks: number;
  readonly keyBlocks: number;
  private readonly tiles: TileKinds;
  /** False if tiles are classified only by the causal triangle, because the bounds are on a device. */
  private readonly boundsKnown: boolean;
  /** `[maskB, 1 or H, Sk, n]` */
  private readonly bounds: Tensor4D;
  /** Whether all of `summed` is known to be finite; undefined until a partial tile asks. */
  private finite?: boolean;

  /** @param summed Tensors that the pass sums over pairs with `Tile.sumOverKeys` and `sumOverRows`. */
  constructor(
    {q, k, v, bounds}: ForwardTensors,
    private readonly attrs: FlashMaskAttentionAttrs,
    private readonly summed: Tensor[],
  ) {
    this.p = problemOf({q, k, v, bounds}, attrs);
    const host = this.p.n === 0 ? new Int32Array(0) : readBounds(bounds);
    this.boundsKnown = host !== null;
    this.tiles = host
      ? new TileKinds(this.p, host, BLOCK, BLOCK)
      : new TileKinds({...this.p, n: 0, maskB: 1, Hm: 1}, new Int32Array(0), BLOCK, BLOCK);
    this.bounds = this.repeatHeads(bounds as Tensor4D);
    this.queryBlocks = this.tiles.queryBlocks;
    this.keyBlocks = this.tiles.keyBlocks;
  }

  kind(queryBlock: number, keyBlock: number): TileKind {
    const kind = this.tiles.kindForAll(queryBlock, keyBlock);
    return kind === 'full' && !this.boundsKnown ? 'partial' : kind;
  }

  /** Rows of a query block. */
  rows(queryBlock: number): number {
    const {begin, end} = this.tiles.rows(queryBlock);
    return end - begin;
  }

  /** Columns of a key block. */
  columns(keyBlock: number): number {
    const {begin, end} = this.tiles.columns(keyBlock);
    return end - begin;
  }

  /** A query block of a tensor shaped like q or out: `[B, Hkv, group * rows, channels]`. */
  queries(x: Tensor, block: number): Tensor4D {
    const {B, H, Hkv} = this.p;
    const {begin, end} = this.tiles.rows(block);
    return reshape(this.sliceRows(x, begin, end), [B, Hkv, (H / Hkv) * (end - begin), x.shape[3]!]);
  }

  /** A key block of a tensor shaped like k or v: `[B, Hkv, columns, channels]`. */
  keys(x: Tensor, block: number): Tensor4D {
    const {begin, end} = this.tiles.columns(block);
    return this.sliceRows(x, begin, end);
  }

  /**
   * A query block of a row statistic `[B, H, Sq]`, or of number `index` of a statistic `[B, H, Sq, n]`. Its shape is
   * `[B, Hkv, group * rows, 1]`.
   */
  statistic(x: Tensor, block: number, index = 0): Tensor4D {
    const {B, H, Hkv, Sq} = this.p;
    const {begin, end} = this.tiles.rows(block);
    const numbers = reshape(x, [B, H, Sq, -1]);
    const part = slice(numbers, [0, 0, begin, index], [B, H, end - begin, 1]);
    return reshape(part, [B, Hkv, (H / Hkv) * (end - begin), 1]);
  }

  /** Joins query blocks to a tensor shaped like q or out. */
  joinQueries(blocks: Tensor4D[]): Tensor4D {
    const {B, H} = this.p;
    return this.join(blocks.map((x, i) => reshape(x, [B, H, this.rows(i), x.shape[3]])));
  }

  /** Joins key blocks to a tensor shaped like k or v. */
  joinKeys(blocks: Tensor4D[]): Tensor4D {
    return this.join(blocks);
  }

  /** Joins statistics to `[B, H, Sq]`, or to `[B, H, Sq, n]` with n numbers per row. */
  joinStatistics(blocks: Tensor4D[]): Tensor {
    const {B, H} = this.p;
    const n = blocks[0].shape[3];
    const parts = blocks.map((x, i) => reshape(x, n === 1 ? [B, H, this.rows(i)] : [B, H, this.rows(i), n]));
    return parts.length === 1 ? parts[0] : concat(parts, 2);
  }

  /** The pairs of a tile that is not empty. */
  tile(queryBlock: number, keyBlock: number): Tile {
    const factors = this.attrs.dropout === 0 ? null : this.dropoutFactors(queryBlock, keyBlock);
    if (this.kind(queryBlock, keyBlock) === 'full') return new Tile({hidden: null, factors, finite: true});
    const {B, H} = this.p;
    const rows = this.rows(queryBlock);
    const columns = this.columns(keyBlock);
    const perHead = broadcastTo(this.hidden(queryBlock, keyBlock) as Tensor4D, [B, H, rows, columns]);
    const hidden: Tensor4D = reshape(perHead, this.pairsShape(queryBlock, keyBlock));
    this.finite ??= canReadBack() && this.summed.every(isAllFinite);
    return new Tile({hidden, factors, finite: this.finite});
  }

  private pairsShape(queryBlock: number, keyBlock: number): [number, number, number, number] {
    const {B, H, Hkv} = this.p;
    return [B, Hkv, (H / Hkv) * this.rows(queryBlock), this.columns(keyBlock)];
  }

  private dropoutFactors(queryBlock: number, keyBlock: number): Tensor4D {
    const {B, H} = this.p;
    const draw = dropoutOf(this.attrs.dropout, this.attrs.seed);
    const rows = this.tiles.rows(queryBlock);
    const columns = this.tiles.columns(keyBlock);
    const count = columns.end - columns.begin;
    const factors = new Float32Array(B * H * (rows.end - rows.begin) * count);
    let at = 0;
    for (let batchHead = 0; batchHead < B * H; batchHead++) {
      for (let r = rows.begin; r < rows.end; r++, at += count) {
        keepFactors(factors, at, draw, batchHead, r, columns.begin, count);
      }
    }
    return tensor4d(factors, this.pairsShape(queryBlock, keyBlock));
  }

  /** Hidden pairs of a tile, bool `[maskB, 1 or H, rows, columns]`, or smaller axes that broadcast to it. */
  private hidden(queryBlock: number, keyBlock: number): Tensor {
    const {Sk, Sq, causal, n} = this.p;
    const rows = this.tiles.rows(queryBlock);
    const columns = this.tiles.columns(keyBlock);
    const r = reshape(range(rows.begin, rows.end, 1, 'int32'), [rows.end - rows.begin, 1]);
    const parts: Tensor[] = [];
    if (causal) parts.push(less(r, range(columns.begin - (Sk - Sq), columns.end - (Sk - Sq), 1, 'int32')));
    const bound = (i: number): Tensor => this.bound(i, columns.begin, columns.end);
    for (const {start, end} of formOf(n, causal)) {
      const conditions: Tensor[] = [];
      if (start !== null) conditions.push(greaterEqual(r, bound(start)));
      if (end !== null) conditions.push(less(r, bound(end)));
      parts.push(conditions.reduce((a, b) => logicalAnd(a, b)));
    }
    return parts.reduce((a, b) => logicalOr(a, b));
  }

  /** Bound number i of columns [begin, end), `[maskB, 1 or H, 1, columns]`. */
  private bound(i: number, begin: number, end: number): Tensor {
    const [batch, heads] = this.bounds.shape;
    return reshape(slice(this.bounds, [0, 0, begin, i], [batch, heads, end - begin, 1]), [
      batch,
      heads,
      1,
      end - begin,
    ]);
  }

  /** Bounds with a head for each query head, or one for all. */
  private repeatHeads(bounds: Tensor4D): Tensor4D {
    const {H, Hm, maskB, Sk, n} = this.p;
    if (Hm === 1 || Hm === H || n === 0) return bounds;
    return reshape(tile(reshape(bounds, [maskB, Hm, 1, Sk * n]), [1, 1, H / Hm, 1]), [maskB, H, Sk, n]);
  }

  /** Rows of a 4-d tensor as `[B, heads, rows, channels]`. */
  private sliceRows(x: Tensor, begin: number, end: number): Tensor4D {
    const [B, a, b, channels] = x.shape as [number, number, number, number];
    return this.p.layout === 'bshd'
      ? transpose(slice(x as Tensor4D, [0, begin, 0, 0], [B, end - begin, b, channels]), [0, 2, 1, 3])
      : slice(x as Tensor4D, [0, 0, begin, 0], [B, a, end - begin, channels]);
  }

  private join(blocks: Tensor4D[]): Tensor4D {
    const whole = blocks.length === 1 ? blocks[0] : concat(blocks, 2);
    return this.p.layout === 'bshd' ? transpose(whole, [0, 2, 1, 3]) : whole;
  }
}

function canReadBack(): boolean {
  return HOST_BACKENDS.includes(engine().backendName);
}

function isAllFinite(x: Tensor): boolean {
  return (engine().readSync(x.dataId) as Float32Array).every((value) => value - value === 0);
}

function readBounds(bounds: Tensor): Int32Array | null {
  const host = hostBoundsOf(bounds.dataId);
  if (host) return host;
  if (!canReadBack()) return null;
  return Int32Array.from(engine().readSync(bounds.dataId) as Int32Array);
}
