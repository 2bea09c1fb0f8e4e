/**
 * @file The mask value, which says which keys a query sees: FlashMask's row bounds per key column, in linear memory.
 */
import type {Tensor4D} from '@tensorflow/tfjs-core';
import {toDense} from './builders/dense.js';
import {checkInteger, checkOptions, describe, fail} from '../call/errors.js';
import {FIELD_NAMES, type FlashMaskFields, MASK_MARK, checkFields} from './fields.js';
import {boundsTensor} from './bounds/bounds_tensor.js';
import {checkCount} from './builders/limits.js';
import {type TextOptions, drawText} from './pictures/text.js';
import type {HostBounds, Vectors} from './bounds/intervals.js';
import {type Sparsity, sparsityOf} from './bounds/visible.js';

export type {FlashMaskFields} from './fields.js';

/** The method that Node's console calls. */
const INSPECT: unique symbol = Symbol.for('nodejs.util.inspect.custom');

/** Tile sides, in queries and keys. */
export interface TileOptions {
  /** Default 64. */
  blockQ?: number;
  /** Default 64. */
  blockK?: number;
}

/**
 * An immutable attention mask. Key column j hides the query rows `[LTS_j, LTE_j) ∪ [UTS_j, UTE_j)` (arXiv 2410.01359,
 * section 4.1), and, if causal, the rows r < j - (keyLength - queryLength). The vectors stored per column:
 *
 * | causal | vectors | stored             | masked rows of a column                  |
 * |--------|---------|--------------------|------------------------------------------|
 * | any    | 0       | nothing            | none, but the causal triangle            |
 * | true   | 1       | LTS                | r ≥ LTS, and the causal triangle         |
 * | true   | 2       | LTS, LTE           | LTS ≤ r < LTE, and the causal triangle   |
 * | false  | 2       | LTS, UTE           | r ≥ LTS or r < UTE                       |
 * | false  | 4       | LTS, LTE, UTS, UTE | [LTS, LTE) ∪ [UTS, UTE)                  |
 *
 * Bounds may lie outside the rows, and intervals may overlap, come in either order or be empty.
 *
 * @example
 * const mask = masks.causalDocument([3, 5]); // two documents packed in a row of 8 tokens
 * console.log(String(mask)); // a picture
 * const out = flashMaskAttention(q, k, v, mask);
 */
export class FlashMask implements HostBounds {
  /** Name of the builder, or 'custom'. */
  readonly name: string;
  /** Whether the keys after a query are hidden too. */
  readonly causal: boolean;
  /** Query rows. */
  readonly queryLength: number;
  /** Key columns. */
  readonly keyLength: number;
  /** Batch rows with their own masks; 1: all rows share one. */
  readonly batch: number;
  /** Heads with their own masks; 1: all heads share one. */
  readonly heads: number;
  /** Bounds stored per key column. */
  readonly vectors: Vectors;
  /**
   * int32 `[batch, heads, keyLength, vectors]`, row-major; do not write to it. Null if the bounds are in
   * `boundsTensor`.
   */
  readonly bounds: Int32Array | null;
  /** The caller's tensor, or null. */
  readonly boundsTensor: Tensor4D | null;

  /** @throws Error, naming them, if fields contradict each other. */
  constructor(fields: FlashMaskFields) {
    const given = checkOptions('FlashMask', fields, FIELD_NAMES);
    checkFields('FlashMask', given);
    const {name = 'custom', causal = false, queryLength, keyLength, batch = 1, heads = 1, vectors} = given;
    const {bounds = null, boundsTensor = null} = given;
    this.name = name;
    this.causal = causal;
    this.queryLength = queryLength;
    this.keyLength = keyLength;
    this.batch = batch;
    this.heads = heads;
    this.vectors = vectors;
    this.bounds = boundsTensor ? null : (bounds?.slice() ?? new Int32Array(0));
    this.boundsTensor = boundsTensor;
    Object.freeze(this);
  }

  /** @ignore */
  get [MASK_MARK](): true {
    return true;
  }

  /**
   * The mask of one batch row and head as a matrix, for inspection and tests. It takes queryLength × keyLength bytes.
   *
   * @returns Row-major `[queryLength, keyLength]`, 1 where the query sees the key.
   */
  toDense(batch = 0, head = 0): Uint8Array {
    requireHost('FlashMask.toDense', this);
    checkCount('FlashMask.toDense', 'a dense mask', [this.queryLength, this.keyLength]);
    return toDense(this, ...readPlace('FlashMask.toDense', this, batch, head));
  }

  /**
   * How much the mask leaves out: fractions of masked pairs, and of empty, partial and full tiles, over all batches and
   * heads.
   *
   * @example
   * masks.causalDocument([512, 512]).sparsity({blockQ: 128, blockK: 128}).emptyTiles; // 0.6875
   */
  sparsity(options?: TileOptions): Sparsity {
    requireHost('FlashMask.sparsity', this);
    const {blockQ = 64, blockK = 64} = checkOptions('FlashMask.sparsity', options, ['blockQ', 'blockK']);
    checkInteger('FlashMask.sparsity', 'blockQ', blockQ, 1);
    checkInteger('FlashMask.sparsity', 'blockK', blockK, 1);
    return sparsityOf(this, blockQ, blockK);
  }

  /**
   * A picture as text, one line per query or block of queries: █ visible, ▒ partly visible, · masked. A mask whose
   * bounds are in a tensor prints only its sizes.
   */
  toString(options?: TextOptions): string {
    const given = checkOptions('FlashMask.toString', options, ['blocks', 'batch', 'head']);
    if (!this.bounds) return `${this.describe()}, in a tensor: \`await mask.download()\` to see it`;
    const [batch, head] = readPlace('FlashMask.toString', this, given.batch, given.head);
    return drawText(this, this.describe(), {...given, batch, head});
  }

  /** @ignore One line in Node's console. */
  [INSPECT](): string {
    return `FlashMask(${this.describe()})`;
  }

  /**
   * The bounds as a new tensor, which the caller disposes: an input of a model, or the mask of a call, which then needs
   * `causal` in its options.
   *
   * @example
   * const bounds = masks.causalDocument([[3, 5], [8]]).toTensor(); // [2, 1, 8, 1]
   * const out = flashMaskAttention(q, k, v, bounds, {causal: true});
   *
   * @returns int32 `[batch, heads, keyLength, vectors]`.
   */
  toTensor(): Tensor4D {
    return this.boundsTensor?.clone() ?? boundsTensor(this);
  }

  /** This mask with its bounds on the host; itself if they are there already. */
  async download(): Promise<FlashMask> {
    if (!this.boundsTensor) return this;
    const {name, causal, queryLength, keyLength, batch, heads, vectors} = this;
    const bounds = Int32Array.from(await this.boundsTensor.data());
    return new FlashMask({name, causal, queryLength, keyLength, batch, heads, vectors, bounds});
  }

  /** Sizes and form in one line. */
  private describe(): string {
    const many = [this.batch > 1 && count(this.batch, 'batch', 'batches'), this.heads > 1 && count(this.heads, 'head')];
    const form = [this.causal && 'causal', count(this.vectors, 'vector')];
    const sizes = `${count(this.queryLength, 'query', 'queries')} × ${count(this.keyLength, 'key')}`;
    return [this.name, sizes, ...many, ...form].filter(Boolean).join(', ');
  }
}

/** Checks the batch row and head that are asked for. */
export function readPlace(who: string, mask: FlashMask, batch = 0, head = 0): [batch: number, head: number] {
  const check = (what: string, value: number, count: number): void => {
    if (Number.isInteger(value) && value >= 0 && value < count) return;
    const rule = `${what} must be a whole number from 0 to ${count - 1}`;
    fail(who, rule, describe(value), `The mask has ${count}.`);
  };
  check('batch', batch, mask.batch);
  check('head', head, mask.heads);
  return [batch, head];
}

/** Throws for a mask whose bounds are in a tensor. */
export function requireHost(who: string, {bounds}: FlashMask): void {
  if (bounds) return;
  const remedy = 'Call it on the copy that `await mask.download()` gives.';
  fail(who, 'the bounds must be on the host', 'a mask whose bounds live in a tensor', remedy);
}

function count(number: number, one: string, many = `${one}s`): string {
  return `${number} ${number === 1 ? one : many}`;
}
