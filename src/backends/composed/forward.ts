/** @file The forward pass from tfjs ops, tile by tile: memory linear in the lengths on any backend. */
import {
  type Tensor,
  type Tensor4D,
  add,
  concat,
  div,
  engine,
  exp,
  fill,
  log,
  logicalAnd,
  max,
  maximum,
  mul,
  ones,
  scalar,
  sub,
  sum,
  tidy,
  where,
  zeros,
  zerosLike,
} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs} from '../../call/kernel_names.js';
import {Blocks, type ForwardTensors} from './blocks.js';

/**
 * The lowest float32. No finite score is below it. The running maximum starts here, so that it stays finite in rows
 * that see no key.
 */
const LOWEST = -3.4028234663852886e38;

/** State that the online softmax carries from one key block to the next. */
interface State {
  max: Tensor4D;
  sum: Tensor4D;
  out: Tensor4D;
  /**
   * Bool: rows that have seen no key. The sum does not show this: it is also 0 if all visible scores of a row are
   * -Infinity.
   */
  blind: Tensor4D;
  [name: string]: Tensor4D;
}

/** `[out, lse, rowStats]`, the outputs of the kernel, with rowStats in base e. */
export function composedForward(inputs: ForwardTensors, attrs: FlashMaskAttentionAttrs): [Tensor, Tensor, Tensor] {
  return tidy(() => {
    const blocks = new Blocks(inputs, attrs, [inputs.v]);
    const results = [];
    for (let i = 0; i < blocks.queryBlocks; i++) results.push(tidy(() => queryBlock(blocks, inputs, attrs.scale, i)));
    return [
      blocks.joinQueries(results.map((x) => x.out)),
      blocks.joinStatistics(results.map((x) => x.lse)),
      blocks.joinStatistics(results.map((x) => x.rowStats)),
    ];
  });
}

function queryBlock(
  blocks: Blocks,
  inputs: ForwardTensors,
  scale: number,
  i: number,
): Record<'out' | 'lse' | 'rowStats', Tensor4D> {
  const {B, H, Hkv, Dv} = blocks.p;
  const rows = (H / Hkv) * blocks.rows(i);
  const q = blocks.queries(inputs.q, i);
  let state: State = {
    max: fill([B, Hkv, rows, 1], LOWEST) as Tensor4D,
    sum: zeros([B, Hkv, rows, 1]),
    out: zeros([B, Hkv, rows, Dv]),
    blind: ones([B, Hkv, rows, 1], 'bool'),
  };
  for (let j = 0; j < blocks.keyBlocks; j++) {
    if (blocks.kind(i, j) === 'empty') continue;
    const before = state;
    state = tidy(() => tile(blocks, inputs, scale, q, before, i, j));
    Object.values(before).forEach((x) => x.dispose());
  }
  const values = div(state.out, state.sum) as Tensor4D;
  return {
    out: where(state.blind, zerosLike(values), values),
    lse: where(state.blind, scalar(-Infinity) as Tensor, add(state.max, log(state.sum))) as Tensor4D,
    rowStats: concat([state.max, state.sum], 3),
  };
}

function tile(
  blocks: Blocks,
  inputs: ForwardTensors,
  scale: number,
  q: Tensor4D,
  before: State,
  i: number,
  j: number,
): State {
  const pairs = blocks.tile(i, j);
  const scores = mul(pairs.products(q, blocks.keys(inputs.k, j)), scalar(scale)) as Tensor4D;
  const newMax = maximum(before.max, maxOfRows(pairs.choose(scores, LOWEST))) as Tensor4D;
  // Selected by the mask and not by the score, so that a NaN score reaches the sum even if `maximum` ignored it.
  const weights = pairs.visible(exp(sub(scores, newMax)) as Tensor4D);
  const correction = exp(sub(before.max, newMax));
  const values = pairs.sumOverKeys(pairs.dropped(weights), blocks.keys(inputs.v, j));
  const blind = pairs.blindRows();
  return {
    max: newMax,
    sum: add(mul(before.sum, correction), sum(weights, -1, true)),
    out: add(mul(before.out, correction), values),
    blind: blind ? logicalAnd(before.blind, blind) : zerosLike(before.blind),
  };
}

/**
 * The largest value of each row. On webgl tfjs starts the maximum at -1e20, so the values are scaled down there. The
 * scaling is exact except for values close to 0.
 */
function maxOfRows(x: Tensor4D): Tensor4D {
  if (engine().backendName !== 'webgl') return max(x, -1, true);
  return mul(max(mul(x, scalar(2 ** -64)), -1, true), scalar(2 ** 64));
}
