/** @file The plan of context parallelism: which rank has which rows of a sequence, and which keys travel. */
import type {Tensor} from '@tensorflow/tfjs-core';
import {remember} from '../../call/remember.js';
import {checkInteger, checkOptions, describe, fail} from '../../call/errors.js';
import {FlashMask, requireHost} from '../../mask/flash_mask.js';
import {isFlashMask} from '../../mask/is_flash_mask.js';
import {type Balanced, chooseLayout, withOtherMask} from './choose_layout.js';
import {gatherAlong, restoreOrder} from './gather.js';
import {byOwner, placeOn, rowsOf, rowsOfBlocks, seenBlocks} from './layout.js';
import {localMask} from './local_mask.js';

/** Options of {@link planContextParallel}. */
export interface ContextParallelOptions {
  /** Processes that share the sequence. Its length is a multiple of it. */
  ranks: number;
  /**
   * Rows of a chunk; divides the rows of a rank. Default: of these divided by 1, 2, 4, and so on, the size that keeps
   * `imbalance` and sends the fewest keys.
   */
  chunk?: number;
  /**
   * By how much the busiest rank may have more live tiles than the mean, as a fraction. Where that cannot be reached,
   * the imbalance is the least that was found. Default 0.03.
   */
  imbalance?: number;
}

const WHO = 'planContextParallel';
const IMBALANCE = 0.03;

/**
 * Plans how ranks share the attention of one long sequence. The sequence is cut into chunks. Each rank gets as many,
 * with about as many live tiles: tiles of queries and keys that the mask does not empty. A rank computes the queries of
 * its chunks. The keys and values that these see, and no others, come to it.
 *
 * Every rank makes the same plan from the same arguments. It takes milliseconds: time is linear in the length of the
 * sequence.
 *
 * @example
 * ```ts
 * const mask = masks.causalDocument([70000, 61072]); // one row of 131,072 tokens
 * const plan = planContextParallel(mask, {ranks: group.size});
 * const ids = plan.take(allIds, group.rank); // [1, 131072] to [1, 131072 / ranks]
 * ```
 *
 * @param mask A mask with as many queries as keys, with its bounds on the host. All its batch rows and heads count.
 * @throws Error if the mask is not square, or if ranks and chunks do not divide its length.
 */
export function planContextParallel(mask: FlashMask, options: ContextParallelOptions): ContextParallelPlan {
  checkMask(WHO, mask);
  const given = checkOptions(WHO, options, ['ranks', 'chunk', 'imbalance']);
  const {queryLength} = mask;
  const ranks = checkInteger(WHO, 'ranks', given.ranks, 1);
  if (queryLength % ranks !== 0) {
    const remedy = 'Pad the sequence, for example with {padTo} of the builder. Padding costs no work.';
    fail(WHO, 'the length must be a multiple of ranks', `${queryLength} tokens on ${ranks} ranks`, remedy);
  }
  const {chunk, imbalance = IMBALANCE} = given;
  if (chunk !== undefined) checkChunk(chunk, queryLength / ranks);
  if (typeof imbalance !== 'number' || !(imbalance >= 0)) {
    fail(WHO, 'imbalance must be a number of at least 0', describe(imbalance), `Leave it out for ${IMBALANCE}.`);
  }
  return new ContextParallelPlan(mask, chooseLayout(mask, ranks, imbalance, chunk));
}

function checkMask(who: string, mask: FlashMask): void {
  if (!isFlashMask(mask)) fail(who, 'mask must be a FlashMask', describe(mask), 'Build one with masks.');
  requireHost(who, mask);
  const {queryLength, keyLength} = mask;
  if (queryLength === keyLength) return;
  const got = `${queryLength} queries and ${keyLength} keys`;
  fail(who, 'the mask must have as many queries as keys', got, 'Ranks share the tokens of one sequence.');
}

function checkChunk(chunk: unknown, rows: number): void {
  if (rows % checkInteger(WHO, 'chunk', chunk, 1) === 0) return;
  fail(WHO, `chunk must divide the ${rows} rows of a rank`, describe(chunk), 'Multiples of 128 are the fastest.');
}

/** What a rank sends and gets in one exchange of rows. */
export interface RowExchange {
  /** Rows of this rank by their numbers here, those for rank 0 first, then those for rank 1, and so on. */
  rows: Int32Array;
  /** How many of them go to each rank. */
  sends: number[];
  /** How many come from each rank. */
  receives: number[];
}

/** Which rank has which rows of a sequence. {@link planContextParallel} makes it. */
export class ContextParallelPlan {
  /** Processes that share the sequence. */
  readonly ranks: number;
  /** Tokens of the sequence. */
  readonly length: number;
  /** Tokens of a rank. */
  readonly localLength: number;
  /** Tokens of a chunk. */
  readonly chunk: number;
  /** Live tiles of each rank. Tiles are 128 × 128, or as large as chunks allow. */
  readonly liveTiles: readonly number[];
  /** How much more live tiles the busiest rank has than the mean, as a fraction. */
  readonly imbalance: number;
  private readonly memory = new Map<string, unknown>();

  /** @internal */
  constructor(
    /** The mask of the whole sequence. */
    readonly mask: FlashMask,
    private readonly balanced: Balanced,
  ) {
    const {layout, liveTiles, imbalance} = balanced;
    this.ranks = layout.ranks;
    this.length = layout.length;
    this.localLength = layout.length / layout.ranks;
    this.chunk = layout.chunk;
    this.liveTiles = liveTiles;
    this.imbalance = imbalance;
  }

  /**
   * The plan with the same rows for another mask of the sequence: for layers with a sliding window, for example. Its
   * balance is what it is.
   *
   * @throws Error if the mask is not square or of another length, or if its bounds are in a tensor.
   */
  withMask(mask: FlashMask): ContextParallelPlan {
    checkMask('ContextParallelPlan.withMask', mask);
    if (mask.keyLength !== this.length) {
      const rule = `the mask must be of the ${this.length} tokens of the plan`;
      fail('ContextParallelPlan.withMask', rule, `${mask.keyLength}`, 'Plan anew for sequences of another length.');
    }
    return new ContextParallelPlan(mask, withOtherMask(this.balanced, mask));
  }

  /** The positions of a rank's rows in the sequence, in order. Do not write to it. */
  rows(rank: number): Int32Array {
    return this.once(`rows ${this.checkRank(rank)}`, () => rowsOf(this.balanced.layout, rank));
  }

  /**
   * The positions of the keys of a rank's call: those that come from rank 0, then those from rank 1, and so on. Its own
   * are among them. Do not write to it.
   */
  keys(rank: number): Int32Array {
    return this.once(`keys ${this.checkRank(rank)}`, () => {
      const {block} = this.balanced.blocks;
      return rowsOfBlocks(this.neededBlocks(rank).map((index) => index * block), block); // prettier-ignore
    });
  }

  /**
   * The mask of a rank's call: its {@link rows} against its {@link keys}. It is not causal; its bounds say all.
   *
   * @param heads First and end of the mask's heads that the call has. Default: all.
   */
  localMask(rank: number, heads: readonly [number, number] = [0, this.mask.heads]): FlashMask {
    return this.once(`mask ${this.checkRank(rank)} ${heads.join()}`, () => {
      const place = placeOn(this.balanced.layout, rank);
      return localMask(withHeads(this.mask, heads), place, this.localLength, this.keys(rank));
    });
  }

  /** The key rows that a rank sends to others, and gets from them. */
  exchange(rank: number): RowExchange {
    return this.once(`exchange ${this.checkRank(rank)}`, () => {
      const {layout, blocks} = this.balanced;
      const {block} = blocks;
      const lists = Array.from({length: this.ranks}, (_, to) =>
        to === rank
          ? this.neededBlocks(rank).filter((index) => this.ownerOf(index) === rank)
          : seenBlocks(blocks, this.ownBlocks(rank), placeOn(layout, to), this.localLength),
      );
      const place = placeOn(layout, rank);
      const rows = rowsOfBlocks(
        lists.flatMap((list) => Array.from(list, (index) => place(index * block))),
        block,
      );
      return {rows, sends: lists.map((list) => list.length * block), receives: this.receives(rank)};
    });
  }

  /** Key rows that come to a rank from other ranks. Those of the value travel beside them. */
  receivedRows(rank: number): number {
    return this.receives(this.checkRank(rank)).reduce((sum, rows, from) => sum + (from === rank ? 0 : rows), 0);
  }

  /**
   * A rank's rows of a tensor of the whole sequence: ids, labels, positions, or what a layer computed. Differentiable.
   *
   * @param x `[B, length, ...]`.
   * @param axis The axis of the sequence. Default 1.
   * @returns `[B, localLength, ...]`.
   */
  take<T extends Tensor>(x: T, rank: number, axis = 1): T {
    this.checkAxis('take', x, axis, this.length);
    return gatherAlong(x, this.rows(rank), axis) as T;
  }

  /**
   * The whole sequence from the rows of all ranks. Differentiable.
   *
   * @param x What `group.allGather` gives: the ranks' tensors `[B, localLength, ...]`, one after another along the
   *   first axis.
   * @param axis The axis of the sequence. Default 1.
   * @returns `[B, length, ...]`.
   */
  restore<T extends Tensor>(x: T, axis = 1): T {
    this.checkAxis('restore', x, axis, this.localLength);
    const places = this.once('places', () => {
      const all = new Int32Array(this.length);
      for (let rank = 0; rank < this.ranks; rank++) {
        this.rows(rank).forEach((row, i) => (all[row] = rank * this.localLength + i));
      }
      return all;
    });
    return restoreOrder(x, this.ranks, places, axis) as T;
  }

  /** How many key rows come to a rank from each. */
  private receives(rank: number): number[] {
    const rows = Array<number>(this.ranks).fill(0);
    for (const index of this.neededBlocks(rank)) rows[this.ownerOf(index)] += this.balanced.blocks.block;
    return rows;
  }

  /** The key blocks that a rank's call reads, by owner. A rank whose rows see nothing reads its own first block. */
  private neededBlocks(rank: number): Int32Array {
    return this.once(`needed ${rank}`, () => {
      const {layout, blocks} = this.balanced;
      const needed = seenBlocks(blocks, this.blocksByOwner(), placeOn(layout, rank), this.localLength);
      return needed.length > 0 ? needed : this.ownBlocks(rank).subarray(0, 1);
    });
  }

  private ownBlocks(rank: number): Int32Array {
    const all = this.blocksByOwner();
    return all.subarray((rank * all.length) / this.ranks, ((rank + 1) * all.length) / this.ranks);
  }

  private blocksByOwner(): Int32Array {
    return this.once('blocks', () => byOwner(this.balanced.layout, this.balanced.blocks.block));
  }

  private ownerOf(block: number): number {
    const {layout, blocks} = this.balanced;
    return layout.owner[Math.floor((block * blocks.block) / layout.chunk)];
  }

  private checkRank(rank: number): number {
    if (Number.isInteger(rank) && rank >= 0 && rank < this.ranks) return rank;
    const rule = `rank must be a whole number from 0 to ${this.ranks - 1}`;
    return fail('ContextParallelPlan', rule, describe(rank), 'Pass the rank of the group that shares the sequence.');
  }

  private checkAxis(what: string, x: Tensor, axis: number, length: number): void {
    if (x.shape[axis] === length) return;
    const rule = `axis ${axis} of the tensor must have ${length} rows`;
    fail(`ContextParallelPlan.${what}`, rule, `shape [${x.shape.join(', ')}]`, 'Pass the axis of the sequence.');
  }

  private once<T>(key: string, make: () => T): T {
    return remember(this.memory, key, make) as T;
  }
}

/** Some heads of a mask. */
function withHeads(mask: FlashMask, [first, end]: readonly [number, number]): FlashMask {
  if (first === 0 && end === mask.heads) return mask;
  const {name, causal, queryLength, keyLength, batch, heads, vectors} = mask;
  const size = keyLength * vectors;
  const bounds = new Int32Array(batch * (end - first) * size);
  for (let b = 0; b < batch; b++) {
    const part = mask.bounds!.subarray((b * heads + first) * size, (b * heads + end) * size);
    bounds.set(part, b * (end - first) * size);
  }
  return new FlashMask({name, causal, queryLength, keyLength, batch, heads: end - first, vectors, bounds});
}
