/** @file Deals the batches of a step to the ranks that compute them. */
import {deal as ownersOf} from '../../../src/distributed/deal.js';

/**
 * Deals batches to ranks, by their work. No rank gets more batches than their share, rounded up.
 *
 * @param work Work of each batch, in any unit.
 * @returns for each rank the indices of its batches, ascending. The same on every rank.
 * @example deal([5, 1, 3, 4], 2) // [[0, 1], [2, 3]]
 */
export function deal(work: readonly number[], ranks: number): number[][] {
  const dealt = Array.from({length: ranks}, (): number[] => []);
  ownersOf(work, ranks).forEach((rank, batch) => dealt[rank].push(batch));
  return dealt;
}
