/**
 * @file The gradient of FlashMaskAttentionGrad, written out and composed from tfjs ops, tile by tile: linear memory on any backend,
 * and differentiable again, since it runs on the tape like any other op.
 *
 * With s the scaled scores, p = exp(s - lse), f the dropout factors, dP = f · (dOut vᵀ), E = dP - delta + dLse and dS = p E, the
 * kernel gives dq = scale dS k, dk = scale dSᵀ q and dv = (p f)ᵀ dOut. Its cotangents a, b, c enter through X = scale (a kᵀ + q bᵀ)
 * and Y = dOut cᵀ: the objective is the sum of dS X + (p f) Y over all pairs, and all below is its derivative.
 */
import {type Tensor, type Tensor4D, add, matMul, mul, neg, scalar, sub, sum, tidy} from '@tensorflow/tfjs-core';
import type {FlashMaskAttentionAttrs} from '../kernel_names.js';
import {
  type BackwardTensors,
  type QueryBlock,
  forEachTile,
  keySums,
  mapBlocks,
  querySums,
  readQueryBlock,
} from './backward.js';
import {Blocks} from './blocks.js';

/** What flows into the gradient kernel's outputs. */
export interface Cotangents {
  ddq: Tensor;
  ddk: Tensor;
  ddv: Tensor;
}

/** Gradients of the gradient kernel's inputs; the bounds have none. */
export type SecondOrder = Record<Exclude<keyof BackwardTensors, 'bounds'>, Tensor>;

/** A query block with its cotangent. */
interface Rows extends QueryBlock {
  ddq: Tensor4D;
}

/** The gradients of FlashMaskAttentionGrad's float inputs, shaped like them and each with the others (out and lse too) fixed. */
export function composedSecondOrder(
  inputs: BackwardTensors,
  cotangents: Cotangents,
  attrs: FlashMaskAttentionAttrs,
): SecondOrder {
  return tidy(() => {
    const blocks = new Blocks(inputs, attrs);
    const {D, Dv} = blocks.p;
    const rows = mapBlocks(blocks.queryBlocks, (i) =>
      tidy(() => ({...readQueryBlock(blocks, inputs, i), ddq: blocks.queries(cotangents.ddq, i)}) as Rows),
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
    // delta = rowsum(dOut * out) enters E with a minus sign, dLse with a plus sign, and lse enters p alone.
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
  {q, dOut, lse, shift, ddq}: Rows,
  inputs: BackwardTensors,
  {ddk, ddv}: Cotangents,
  scale: number,
  i: number,
  j: number,
): Record<'q' | 'k' | 'v' | 'dOut' | 'rowX' | 'rowT', Tensor4D> {
  const k = blocks.keys(inputs.k, j);
  const v = blocks.keys(inputs.v, j);
  const b = blocks.keys(ddk, j);
  const c = blocks.keys(ddv, j);
  const factor = scalar(scale);
  const weights = blocks.weights(q, k, lse, i, j);
  const dropped = blocks.dropped(weights, i, j);
  const e = sub(blocks.dropped(matMul(dOut, v, false, true), i, j), shift);
  const x = mul(add(matMul(ddq, k, false, true), matMul(q, b, false, true)), factor);
  const y = matMul(dOut, c, false, true);
  const px = mul(weights, x) as Tensor4D;
  const t = add(mul(px, e), mul(dropped, y)) as Tensor4D;
  const dScores = mul(mul(weights, e), factor) as Tensor4D;
  const scaledT = mul(t, factor) as Tensor4D;
  const dDropped = blocks.dropped(px, i, j);
  return {
    q: add(matMul(dScores, b), matMul(scaledT, k)),
    k: add(matMul(dScores, ddq, true, false), matMul(scaledT, q, true, false)),
    v: matMul(dDropped, dOut, true, false),
    dOut: add(matMul(dDropped, v), matMul(dropped, c)),
    rowX: sum(px, -1, true),
    rowT: sum(t, -1, true),
  };
}
