/** @file The forward pass from tfjs ops, tile by tile: memory linear in the lengths on any backend. */
import {
  type Tensor,
  type Tensor4D,
  add,
  div,
  exp,
  fill,
  greater,
  log,
  matMul,
  max,
  maximum,
  mul,
  scalar,
  sub,
  sum,
  tidy,
  where,
  zeros,
} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs} from '../kernel_names.js';
import {Blocks, type ForwardTensors, LEAST_SCORE} from './blocks.js';

/** What an online softmax carries from one key block to the next. */
interface State {
  max: Tensor4D;
  sum: Tensor4D;
  out: Tensor4D;
  [name: string]: Tensor4D;
}

/** `[out, lse]` as the kernel gives them. */
export function composedForward(inputs: ForwardTensors, attrs: FlashMaskAttentionAttrs): [Tensor, Tensor] {
  return tidy(() => {
    const blocks = new Blocks(inputs, attrs);
    const results = [];
    for (let i = 0; i < blocks.queryBlocks; i++) results.push(tidy(() => queryBlock(blocks, inputs, i)));
    return [blocks.joinQueries(results.map((x) => x.out)), blocks.joinStatistics(results.map((x) => x.lse))];
  });
}

function queryBlock(blocks: Blocks, inputs: ForwardTensors, i: number): {out: Tensor4D; lse: Tensor4D} {
  const {B, H, Hkv, Dv} = blocks.p;
  const rows = (H / Hkv) * blocks.rows(i);
  const q = blocks.queries(inputs.q, i);
  let state: State = {
    max: fill([B, Hkv, rows, 1], LEAST_SCORE) as Tensor4D,
    sum: zeros([B, Hkv, rows, 1]),
    out: zeros([B, Hkv, rows, Dv]),
  };
  for (let j = 0; j < blocks.keyBlocks; j++) {
    if (blocks.kind(i, j) === 'empty') continue;
    const before = state;
    state = tidy(() => tile(blocks, inputs, q, before, i, j));
    Object.values(before).forEach((x) => x.dispose());
  }
  const some = greater(state.sum, scalar(0));
  const total = where(some, state.sum, scalar(1) as Tensor) as Tensor4D;
  const lse = where(some, add(state.max, log(total)), scalar(-Infinity) as Tensor) as Tensor4D;
  return {out: div(state.out, total), lse};
}

function tile(blocks: Blocks, inputs: ForwardTensors, q: Tensor4D, before: State, i: number, j: number): State {
  const scores = blocks.scores(q, blocks.keys(inputs.k, j), i, j);
  const newMax = maximum(before.max, max(scores, -1, true)) as Tensor4D;
  const weights = exp(sub(scores, newMax)) as Tensor4D;
  const correction = exp(sub(before.max, newMax));
  const values = matMul(blocks.dropped(weights, i, j), blocks.keys(inputs.v, j)) as Tensor4D;
  return {
    max: newMax,
    sum: add(mul(before.sum, correction), sum(weights, -1, true)),
    out: add(mul(before.out, correction), values),
  };
}
