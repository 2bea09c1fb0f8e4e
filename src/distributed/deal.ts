/** @file Deals pieces of work to ranks. */

/**
 * Deals pieces: the one with most work first, each to the rank that has least so far and room for one more (longest
 * processing time first, Graham 1969; the rule of FlashMask-3's context parallel balance). No rank gets more pieces
 * than their share, rounded up.
 *
 * @param work Work of each piece, in any unit.
 * @param order `heaviestFirst(work)`, if the caller has it.
 * @returns The rank of each piece. It depends on the arguments alone.
 * @example deal([5, 1, 3, 4], 2) // [0, 0, 1, 1]
 */
export function deal(work: ArrayLike<number>, ranks: number, order = heaviestFirst(work)): Int32Array {
  const room = new Int32Array(ranks).fill(Math.ceil(work.length / ranks));
  const load = new Float64Array(ranks);
  const owners = new Int32Array(work.length);
  for (const piece of order) {
    const rank = lightestWithRoom(load, room);
    load[rank] += work[piece];
    room[rank]--;
    owners[piece] = rank;
  }
  return owners;
}

/** The numbers of pieces, those with most work first. Equal ones stay in order. */
export const heaviestFirst = (work: ArrayLike<number>): number[] =>
  Array.from({length: work.length}, (_, piece) => piece).sort((a, b) => work[b] - work[a] || a - b);

function lightestWithRoom(load: Float64Array, room: Int32Array): number {
  let lightest = -1;
  for (let rank = 0; rank < load.length; rank++) {
    if (room[rank] > 0 && (lightest < 0 || load[rank] < load[lightest])) lightest = rank;
  }
  return lightest;
}
