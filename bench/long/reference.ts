/**
 * @file Single rows of causal attention within documents and of its gradients, in float64 on the host. A row of the
 * output reads the keys of its document. A row of dk or dv reads the queries that see its key; near the end of a
 * document they are few.
 */
import {offsetOf} from '../../test/support/oracle.js';
import type {Layout} from '../../src/call/kernel_names.js';
import {drawn} from './inputs.js';

type TensorName = 'q' | 'k' | 'v' | 'dOut';

/** A call with one batch and as many key heads as query heads. */
export interface LongCall {
  N: number;
  H: number;
  D: number;
  layout: Layout;
  scale: number;
  seeds: Record<TensorName, number>;
}

/** Weights and score gradients of a query row, over the keys from `first` to the row itself. */
interface Row {
  first: number;
  lse: number;
  weights: Float64Array;
  scoreGradients: Float64Array;
}

/** Index of the first channel of a row in a tensor of the call. */
export const rowStart = ({N, H, D, layout}: LongCall, head: number, row: number): number =>
  offsetOf(layout, [N, H, D], 0, row, head);

export class Reference {
  private readonly rows = new Map<number, Row>();

  /** @param borders First rows of the documents, then N. */
  constructor(
    private readonly call: LongCall,
    private readonly head: number,
    private readonly borders: readonly number[],
  ) {}

  lse(r: number): number {
    return this.row(r).lse;
  }

  out(r: number): Float64Array {
    const {first, weights} = this.row(r);
    return this.sum('v', first, weights);
  }

  dq(r: number): Float64Array {
    const {first, scoreGradients} = this.row(r);
    return this.sum('k', first, scoreGradients, this.call.scale);
  }

  dk(j: number): Float64Array {
    return this.sum('q', j, this.column(j, 'scoreGradients'), this.call.scale);
  }

  dv(j: number): Float64Array {
    return this.sum('dOut', j, this.column(j, 'weights'));
  }

  /** Weights or score gradients at key j of the rows that see it: from row j to the end of its document. */
  private column(j: number, what: 'weights' | 'scoreGradients'): Float64Array {
    const end = this.borders.find((start) => start > j)!;
    return Float64Array.from({length: end - j}, (_, i) => {
      const row = this.row(j + i);
      return row[what][j - row.first];
    });
  }

  private row(r: number): Row {
    let row = this.rows.get(r);
    if (!row) this.rows.set(r, (row = this.computeRow(r)));
    return row;
  }

  private computeRow(r: number): Row {
    const first = this.borders.filter((start) => start <= r).pop()!;
    const scores = this.products('q', r, 'k', first).map((x) => x * this.call.scale);
    const most = scores.reduce((a, b) => Math.max(a, b));
    const lse = most + Math.log(scores.reduce((sum, s) => sum + Math.exp(s - most), 0));
    const weights = scores.map((s) => Math.exp(s - lse));
    const gradients = this.products('dOut', r, 'v', first);
    const delta = gradients.reduce((sum, x, i) => sum + weights[i] * x, 0);
    return {first, lse, weights, scoreGradients: gradients.map((x, i) => weights[i] * (x - delta))};
  }

  /** Dot products of row r of `a` with each row of `b` from `first` to r. */
  private products(a: 'q' | 'dOut', r: number, b: 'k' | 'v', first: number): Float64Array {
    const left = this.values(a, r);
    const products = new Float64Array(r + 1 - first);
    for (let i = 0; i < products.length; i++) {
      const right = this.values(b, first + i);
      for (let d = 0; d < right.length; d++) products[i] += left[d] * right[d];
    }
    return products;
  }

  /** factor · Σ weight of a row · that row of `name`, from row `first` on. */
  private sum(name: TensorName, first: number, weights: Float64Array, factor = 1): Float64Array {
    const total = new Float64Array(this.call.D);
    for (let i = 0; i < weights.length; i++) {
      const values = this.values(name, first + i);
      for (let d = 0; d < total.length; d++) total[d] += factor * weights[i] * values[d];
    }
    return total;
  }

  private values(name: TensorName, row: number): Float32Array {
    return drawn(this.call.seeds[name], rowStart(this.call, this.head, row), this.call.D);
  }
}
