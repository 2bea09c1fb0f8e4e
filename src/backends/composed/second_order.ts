/**
 * @file The gradient of FlashMaskAttentionGrad as explicit formulas, composed from tfjs ops, tile by tile. Memory is
 * linear on any backend. It runs on the tape like any other op, so it is differentiable again.
 *
 * With s the scaled scores, p = exp(s - lse), f the dropout factors, dP = f · (dOut vᵀ), E = dP - delta + dLse and
 * dS = p E, the kernel gives dq = scale dS k, dk = scale dSᵀ q and dv = (p f)ᵀ dOut. Its cotangents a, b, c enter
 * through X = scale (a kᵀ + q bᵀ) and Y = dOut cᵀ: the objective is the sum of dS X + (p f) Y over all pairs, and this
 * file computes its derivatives.
 */
import {
  type GradSaveFunc,
  type Tensor,
  type Tensor4D,
  add,
  customGrad,
  div,
  exp,
  mul,
  neg,
  scalar,
  sub,
  sum,
  tidy,
  zeros,
  zerosLike,
} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs} from '../../call/kernel_names.js';
import {
  type BackwardTensors,
  type QueryBlock,
  forEachTile,
  keySums,
  mapBlocks,
  querySums,
  readQueryBlock,
} from './backward.js';
import {Blocks, type ForwardTensors} from './blocks.js';
import {composedForward} from './forward.js';
import type {Tile} from './tile.js';

/**
 * The gradient kernel's inputs as tensors, with lse (natural log) in place of rowStats, which only the kernel reads.
 */
export interface SecondOrderTensors extends Omit<BackwardTensors, 'rowStats'> {
  lse: Tensor;
}

/** The gradients of the gradient kernel's outputs. */
export interface Cotangents {
  ddq: Tensor;
  ddk: Tensor;
  ddv: Tensor;
}

/** Gradients of these inputs; the bounds have none. */
export type SecondOrder = Record<Exclude<keyof SecondOrderTensors, 'bounds'>, Tensor>;

/** A query block with its cotangent. */
interface Rows extends QueryBlock {
  ddq: Tensor4D;
  lse: Tensor4D;
}

/**
 * The gradients of FlashMaskAttentionGrad's float inputs, shaped like them and each with the others (out and lse too)
 * fixed.
 */
export function composedSecondOrder(
  given: SecondOrderTensors,
  cotangents: Cotangents,
  attrs: FlashMaskAttentionAttrs,
): SecondOrder {
  return tidy(() => {
    const inputs = {...given, rowStats: rowStatsOf(given, attrs)};
    const {q, k, v, dOut: dO} = inputs;
    const blocks = new Blocks(inputs, attrs, [q, k, v, dO, cotangents.ddq, cotangents.ddk, cotangents.ddv]);
    const {D, Dv} = blocks.p;
    const rows = mapBlocks(blocks.queryBlocks, (i) =>
      tidy((): Rows => {
        const lse = blocks.statistic(inputs.lse, i);
        return {...readQueryBlock(blocks, inputs, i), ddq: blocks.queries(cotangents.ddq, i), lse};
      }),
    );
    const sums = {
      q: querySums(blocks, D),
      k: keySums(blocks, D),
      v: keySums(blocks, Dv),
      dOut: querySums(blocks, Dv),
      rowX: querySums(blocks, 1),
      rowT: querySums(blocks, 1),
    };
    forEachTile(blocks, (i, j) => {
      const x = tidy(() => tile(blocks, rows[i], inputs, cotangents, attrs.scale, i, j));
      sums.q.add(i, x.q);
      sums.k.add(j, x.k);
      sums.v.add(j, x.v);
      sums.dOut.add(i, x.dOut);
      sums.rowX.add(i, x.rowX);
      sums.rowT.add(i, x.rowT);
    });
    // delta = rowsum(dOut * out) enters E with a minus sign, dLse with a plus sign, and lse enters only p.
    const rowX = sums.rowX.values();
    const dOut = sums.dOut.values().map((x, i) => sub(x, mul(rowX[i], rows[i].out)) as Tensor4D);
    const out = rowX.map((x, i) => neg(mul(x, rows[i].dOut)) as Tensor4D);
    return {
      q: blocks.joinQueries(sums.q.values()),
      k: blocks.joinKeys(sums.k.values()),
      v: blocks.joinKeys(sums.v.values()),
      out: blocks.joinQueries(out),
      lse: neg(blocks.joinStatistics(sums.rowT.values())),
      dOut: blocks.joinQueries(dOut),
      dLse: blocks.joinStatistics(rowX),
    };
  });
}

function tile(
  blocks: Blocks,
  rows: Rows,
  inputs: BackwardTensors,
  {ddk, ddv}: Cotangents,
  scale: number,
  i: number,
  j: number,
): Record<'q' | 'k' | 'v' | 'dOut' | 'rowX' | 'rowT', Tensor4D> {
  const {q, dOut, rowShift, ddq} = rows;
  const pairs = blocks.tile(i, j);
  const k = blocks.keys(inputs.k, j);
  const v = blocks.keys(inputs.v, j);
  const b = blocks.keys(ddk, j);
  const c = blocks.keys(ddv, j);
  const factor = scalar(scale);
  const weights = weightsOf(pairs, mul(pairs.products(q, k), factor), rows);
  const dropped = pairs.dropped(weights);
  const e = sub(pairs.dropped(pairs.products(dOut, v)), rowShift);
  const x = mul(add(pairs.products(ddq, k), pairs.products(q, b)), factor);
  const px = pairs.visible(mul(weights, x));
  const t = pairs.visible(add(mul(px, e), mul(dropped, pairs.products(dOut, c))));
  const dScores = pairs.visible(mul(mul(weights, e), factor));
  const scaledT = mul(t, factor) as Tensor4D;
  const dDropped = pairs.dropped(px);
  return {
    q: add(pairs.sumOverKeys(dScores, b), pairs.sumOverKeys(scaledT, k)),
    k: add(pairs.sumOverRows(dScores, ddq), pairs.sumOverRows(scaledT, q)),
    v: pairs.sumOverRows(dDropped, dOut),
    dOut: add(pairs.sumOverKeys(dDropped, v), pairs.sumOverKeys(dropped, c)),
    rowX: sum(px, -1, true),
    rowT: sum(t, -1, true),
  };
}

/**
 * exp(s - lse), computed from the maximum and the sum of the row, because lse is rounded. Only the derivative of lse is
 * used, not its value. Hidden scores are replaced before the exponential too, so that its derivative is finite where
 * hidden.
 */
function weightsOf(pairs: Tile, scores: Tensor4D, {max, sum: total, lse}: Rows): Tensor4D {
  const visible = pairs.visible(sub(sub(scores, max), zeroFor(lse)));
  return pairs.visible(div(smoothExp(visible), total));
}

/** Zeros that have the derivative of x. */
function zeroFor(x: Tensor4D): Tensor4D {
  return customGrad((y) => ({value: zerosLike(y as Tensor), gradFunc: (dy) => dy}))(x) as Tensor4D;
}

/**
 * exp with derivatives of every order. tfjs's exp has only the first, because it saves its output (see
 * gradients/flash_mask_attention_grad_grad.ts).
 */
function smoothExp(x: Tensor): Tensor {
  return customGrad((y, save) => {
    (save as GradSaveFunc)([y as Tensor]);
    return {value: exp(y as Tensor), gradFunc: (dy, [saved]) => mul(dy, smoothExp(saved))};
  })(x);
}

/** `rowStats` computed by these ops, whichever kernels the backend has. The tape sees it as a constant. */
function rowStatsOf({q, k, bounds}: ForwardTensors, attrs: FlashMaskAttentionAttrs): Tensor {
  const shape = [...k.shape.slice(0, 3), 1] as [number, number, number, number];
  return customGrad((x, y) => ({
    value: composedForward({q: x as Tensor, k: y as Tensor, v: zeros(shape), bounds}, {...attrs, dropout: 0})[2],
    gradFunc: () => [zeros(q.shape), zeros(k.shape)],
  }))(q, k);
}
