/** @file Deals chunks of rows to ranks: equal numbers of chunks, about equal work, and neighbours together. */
import {deal, heaviestFirst} from '../deal.js';

/**
 * Deals chunks by {@link deal}. Then chunks of about the same weight change places so that neighbours are on one rank,
 * because neighbours see about the same keys.
 *
 * @param weights The work of each chunk. Their number is a multiple of `ranks`.
 * @param step Weights in one step of this size count as equal. 0: none but equal ones.
 * @returns The rank of each chunk. It depends on the arguments alone.
 */
export function dealChunks(weights: ArrayLike<number>, ranks: number, step: number): Int32Array {
  const level = Float64Array.from(weights, (weight) => (step > 0 ? Math.round(weight / step) * step : weight));
  const order = heaviestFirst(level);
  const owners = deal(level, ranks, order);
  for (let from = 0, to = 0; from < order.length; from = to) {
    while (to < order.length && level[order[to]] === level[order[from]]) to++;
    // Chunks of one level are in the order of the row. So are their ranks then.
    const chunks = order.slice(from, to);
    const sorted = Int32Array.from(chunks, (chunk) => owners[chunk]).sort();
    chunks.forEach((chunk, i) => (owners[chunk] = sorted[i]));
  }
  return owners;
}
