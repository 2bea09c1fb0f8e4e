/** @file The backward pass from tfjs ops, tile by tile: memory linear in the lengths on any backend. */
import {type Tensor, type Tensor4D, add, div, exp, mul, scalar, sub, sum, tidy, zeros} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs} from '../../call/kernel_names.js';
import {Blocks, type ForwardTensors} from './blocks.js';

/** The gradient kernel's inputs as tensors. */
export interface BackwardTensors extends ForwardTensors {
  out: Tensor;
  rowStats: Tensor;
  dOut: Tensor;
  dLse: Tensor;
}

/**
 * A query block of the tensors that the backward pass reads. Rows that see no key may hold any values, because all
 * their pairs are hidden.
 */
export interface QueryBlock extends Record<string, Tensor4D> {
  q: Tensor4D;
  out: Tensor4D;
  dOut: Tensor4D;
  max: Tensor4D;
  sum: Tensor4D;
  /** delta - dLse */
  rowShift: Tensor4D;
}

/** Reads a query block. */
export function readQueryBlock(blocks: Blocks, inputs: BackwardTensors, i: number): QueryBlock {
  const out = blocks.queries(inputs.out, i);
  const dOut = blocks.queries(inputs.dOut, i);
  return {
    q: blocks.queries(inputs.q, i),
    out,
    dOut,
    max: blocks.statistic(inputs.rowStats, i, 0),
    sum: blocks.statistic(inputs.rowStats, i, 1),
    rowShift: sub(sum(mul(dOut, out), -1, true), blocks.statistic(inputs.dLse, i)),
  };
}

/** Running sums, one per block; a block without additions is zero. */
export class Sums {
  private readonly sums: (Tensor4D | undefined)[] = [];

  constructor(
    private readonly count: number,
    private readonly shape: (i: number) => [number, number, number, number],
  ) {}

  /** Adds x to block i, and disposes x. */
  add(i: number, x: Tensor4D): void {
    const before = this.sums[i];
    this.sums[i] = before ? (add(before, x) as Tensor4D) : x;
    if (!before) return;
    before.dispose();
    x.dispose();
  }

  values(): Tensor4D[] {
    return Array.from({length: this.count}, (_, i) => this.sums[i] ?? zeros(this.shape(i)));
  }
}

/** Sums of query blocks with `channels` columns. */
export function querySums(blocks: Blocks, channels: number): Sums {
  const {B, H, Hkv} = blocks.p;
  return new Sums(blocks.queryBlocks, (i) => [B, Hkv, (H / Hkv) * blocks.rows(i), channels]);
}

/** Sums of key blocks with `channels` columns. */
export function keySums(blocks: Blocks, channels: number): Sums {
  const {B, Hkv} = blocks.p;
  return new Sums(blocks.keyBlocks, (j) => [B, Hkv, blocks.columns(j), channels]);
}

/** Calls `visit` with every query and key block whose tile is not empty. */
export function forEachTile(blocks: Blocks, visit: (i: number, j: number) => void): void {
  for (let j = 0; j < blocks.keyBlocks; j++) {
    for (let i = 0; i < blocks.queryBlocks; i++) if (blocks.kind(i, j) !== 'empty') visit(i, j);
  }
}

/** `make` applied to 0, 1, ... count - 1. */
export function mapBlocks<T>(count: number, make: (i: number) => T): T[] {
  return Array.from({length: count}, (_, i) => make(i));
}

/** `[dq, dk, dv]`, the outputs of the kernel. */
export function composedBackward(inputs: BackwardTensors, attrs: FlashMaskAttentionAttrs): Tensor[] {
  return tidy(() => {
    const blocks = new Blocks(inputs, attrs, [inputs.q, inputs.k, inputs.dOut]);
    const {D, Dv} = blocks.p;
    const rows = mapBlocks(blocks.queryBlocks, (i) => tidy(() => readQueryBlock(blocks, inputs, i)));
    const dq = querySums(blocks, D);
    const dk = keySums(blocks, D);
    const dv = keySums(blocks, Dv);
    forEachTile(blocks, (i, j) => {
      const x = tidy(() => tile(blocks, rows[i], inputs, attrs.scale, i, j));
      dq.add(i, x.dq);
      dk.add(j, x.dk);
      dv.add(j, x.dv);
    });
    return [blocks.joinQueries(dq.values()), blocks.joinKeys(dk.values()), blocks.joinKeys(dv.values())];
  });
}

function tile(
  blocks: Blocks,
  rows: QueryBlock,
  inputs: BackwardTensors,
  scale: number,
  i: number,
  j: number,
): Record<'dq' | 'dk' | 'dv', Tensor4D> {
  const {q, dOut, max, rowShift} = rows;
  const pairs = blocks.tile(i, j);
  const k = blocks.keys(inputs.k, j);
  const v = blocks.keys(inputs.v, j);
  const scores = mul(pairs.products(q, k), scalar(scale));
  // The same ops as in the forward pass, so that both round scores equally and the weights of a row sum to 1.
  const weights = pairs.visible(div(exp(sub(scores, max)), rows.sum));
  const dWeights = pairs.dropped(pairs.products(dOut, v));
  const dScores = pairs.visible(mul(mul(weights, sub(dWeights, rowShift)), scalar(scale)));
  return {
    dq: pairs.sumOverKeys(dScores, k),
    dk: pairs.sumOverRows(dScores, q),
    dv: pairs.sumOverRows(pairs.dropped(weights), dOut),
  };
}
