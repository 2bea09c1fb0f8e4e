/** @file The backward pass from tfjs ops, tile by tile: memory linear in the lengths on any backend. */
import {
  type Tensor,
  type Tensor4D,
  add,
  customGrad,
  less,
  matMul,
  mul,
  scalar,
  sub,
  sum,
  tidy,
  where,
  zeros,
  zerosLike,
} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs} from '../kernel_names.js';
import {Blocks, type ForwardTensors, LEAST_SCORE} from './blocks.js';

/** The gradient kernel's inputs as tensors. */
export interface BackwardTensors extends ForwardTensors {
  out: Tensor;
  lse: Tensor;
  dOut: Tensor;
  dLse: Tensor;
}

/** A query block of what the backward pass reads, with rows that see no key made harmless. */
export interface QueryBlock extends Record<string, Tensor4D> {
  q: Tensor4D;
  out: Tensor4D;
  /** 0 in rows that see no key. */
  dOut: Tensor4D;
  /** 0 in rows that see no key, where it is -Infinity: their weights are exp(HIDDEN_SCORE) = 0 all the same. */
  lse: Tensor4D;
  /** rowsum(dOut * out) - dLse; 0 in rows that see no key. */
  shift: Tensor4D;
}

/** Reads a query block. Whatever flows into a row that sees no key (NaN too) is dropped here. */
export function readQueryBlock(blocks: Blocks, inputs: BackwardTensors, i: number): QueryBlock {
  const lse = blocks.statistic(inputs.lse, i);
  const none = seesNoKey(lse);
  const clean = (x: Tensor4D): Tensor4D => where(none, zerosLike(x), x);
  const out = blocks.queries(inputs.out, i);
  const dOut = clean(blocks.queries(inputs.dOut, i));
  const dLse = clean(blocks.statistic(inputs.dLse, i));
  const shift = sub(sum(mul(dOut, out), -1, true), dLse) as Tensor4D;
  return {q: blocks.queries(inputs.q, i), out, dOut, lse: clean(lse), shift};
}

/** Which rows see no key. A constant to the tape, on which `less` alone would be an error: tfjs has no gradient of it. */
function seesNoKey(lse: Tensor4D): Tensor4D {
  return customGrad((x) => ({
    value: less(x as Tensor4D, scalar(LEAST_SCORE)) as Tensor,
    // Not zerosLike: x may be gone by then, and tfjs-node reads it.
    gradFunc: () => zeros(lse.shape),
  }))(lse) as Tensor4D;
}

/** Running sums, one a block; a block that nothing was added to is zero. */
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

/** `0, 1, ... count - 1`, mapped. */
export function mapBlocks<T>(count: number, make: (i: number) => T): T[] {
  return Array.from({length: count}, (_, i) => make(i));
}

/** `[dq, dk, dv]` as the kernel gives them. */
export function composedBackward(inputs: BackwardTensors, attrs: FlashMaskAttentionAttrs): Tensor[] {
  return tidy(() => {
    const blocks = new Blocks(inputs, attrs);
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
  {q, dOut, lse, shift}: QueryBlock,
  inputs: BackwardTensors,
  scale: number,
  i: number,
  j: number,
): {dq: Tensor4D; dk: Tensor4D; dv: Tensor4D} {
  const k = blocks.keys(inputs.k, j);
  const v = blocks.keys(inputs.v, j);
  const weights = blocks.weights(q, k, lse, i, j);
  const dWeights = blocks.dropped(matMul(dOut, v, false, true), i, j);
  const dScores = mul(mul(weights, sub(dWeights, shift)), scalar(scale)) as Tensor4D;
  return {
    dq: matMul(dScores, k),
    dk: matMul(dScores, q, true, false),
    dv: matMul(blocks.dropped(weights, i, j), dOut, true, false),
  };
}
