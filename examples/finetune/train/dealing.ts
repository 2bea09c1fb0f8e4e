/** @file Deals the batches of a step to the ranks that compute them. */

/**
 * Deals batches to ranks: the one with most work first, to the rank that has least so far and room for one more
 * (longest processing time first, Graham 1969). No rank gets more batches than their share, rounded up.
 *
 * @param work Work of each batch, in any unit.
 * @returns for each rank the indices of its batches, ascending. The same on every rank.
 * @example deal([5, 1, 3, 4], 2) // [[0, 1], [2, 3]]
 */
export function deal(work: readonly number[], ranks: number): number[][] {
  const room = Math.ceil(work.length / ranks);
  const dealt = Array.from({length: ranks}, (): {batches: number[]; work: number} => ({batches: [], work: 0}));
  const heaviestFirst = [...work.keys()].sort((a, b) => work[b] - work[a] || a - b);
  for (const batch of heaviestFirst) {
    const free = dealt.filter(({batches}) => batches.length < room);
    const lightest = free.reduce((least, rank) => (rank.work < least.work ? rank : least));
    lightest.batches.push(batch);
    lightest.work += work[batch];
  }
  return dealt.map(({batches}) => batches.sort((a, b) => a - b));
}
