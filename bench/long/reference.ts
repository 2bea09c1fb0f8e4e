/**
 * @file Single rows of causal attention within documents and of its gradients, in float64 on the host. A row of the
 * output reads the keys of its document. A row of dk or dv reads the queries that see its key; near the end of a
 * document they are few.
 */
import {offsetOf} from '../../test/support/oracle.js';
import type {Layout} from '../../src/call/kernel_names.js';
import type {Sizes} from '../attention.js';
import {drawn} from './inputs.js';

/** The seeds of a call's inputs. */
export const SEEDS = {q: 1, k: 2, v: 3, dOut: 4};

/** A call with one batch and as many key heads as query heads. */
export type LongCall = Sizes & {layout: Layout};

/** Weights and score gradients of a query row, over the keys from `first` to the row itself. */
interface Row {
  first: number;
  lse: number;
  weights: Float64Array;
  gradients: Float64Array;
}

type Numbers = ArrayLike<number>;
type Results = Record<'out' | 'lse' | 'dq' | 'dk' | 'dv', (row: number) => Numbers>;

/** Index of the first channel of a row in a tensor of the call. */
export const rowStart = ({N, H, D, layout}: LongCall, head: number, row: number): number =>
  offsetOf(layout, [N, H, D], 0, row, head);

function dot(a: Numbers, b: Numbers): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/**
 * Functions that compute one row of each result.
 *
 * @param borders First rows of the documents, then N.
 */
export function reference(call: LongCall, head: number, borders: readonly number[]): Results {
  const scale = 1 / Math.sqrt(call.D);
  const read = (name: keyof typeof SEEDS, row: number) => drawn(SEEDS[name], rowStart(call, head, row), call.D);

  const computeRow = (r: number): Row => {
    const first = borders.filter((start) => start <= r).pop()!;
    const [q, dOut] = [read('q', r), read('dOut', r)];
    const scores = Float64Array.from({length: r + 1 - first}, (_, i) => scale * dot(q, read('k', first + i)));
    const most = scores.reduce((a, b) => Math.max(a, b));
    const lse = most + Math.log(scores.reduce((sum, s) => sum + Math.exp(s - most), 0));
    const weights = scores.map((s) => Math.exp(s - lse));
    const ofWeights = weights.map((_, i) => dot(dOut, read('v', first + i)));
    const delta = dot(weights, ofWeights);
    return {first, lse, weights, gradients: weights.map((weight, i) => scale * weight * (ofWeights[i] - delta))};
  };
  const rows = new Map<number, Row>();
  const rowOf = (r: number): Row => {
    const row = rows.get(r) ?? computeRow(r);
    rows.set(r, row);
    return row;
  };

  /** Σ factor · row of `name`, from row `first` on. */
  const sum = (name: keyof typeof SEEDS, first: number, factors: Float64Array): Float64Array => {
    const total = new Float64Array(call.D);
    factors.forEach((factor, i) => {
      const values = read(name, first + i);
      for (let d = 0; d < total.length; d++) total[d] += factor * values[d];
    });
    return total;
  };
  /** Weights or gradients at key j of the rows that see it: from row j to the end of its document. */
  const column = (j: number, what: 'weights' | 'gradients'): Float64Array =>
    Float64Array.from({length: borders.find((start) => start > j)! - j}, (_, i) => {
      const row = rowOf(j + i);
      return row[what][j - row.first];
    });
  return {
    lse: (r) => [rowOf(r).lse],
    out: (r) => sum('v', rowOf(r).first, rowOf(r).weights),
    dq: (r) => sum('k', rowOf(r).first, rowOf(r).gradients),
    dk: (j) => sum('q', j, column(j, 'gradients')),
    dv: (j) => sum('dOut', j, column(j, 'weights')),
  };
}
