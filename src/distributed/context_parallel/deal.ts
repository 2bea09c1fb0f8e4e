/** @file Deals chunks of rows to ranks: equal numbers of chunks, about equal work, and neighbours together. */

/**
 * Deals chunks: the heaviest first, each to the lightest rank that still has room, which is the rule of FlashMask-3's
 * context parallel balance. Then chunks of about the same weight change places so that neighbours are on one rank,
 * because neighbours see about the same keys.
 *
 * @param weights The work of each chunk. Their number is a multiple of `ranks`.
 * @param step Weights in one step of this size count as equal. 0: none but equal ones.
 * @returns The rank of each chunk. It depends on the arguments alone.
 */
export function dealChunks(weights: ArrayLike<number>, ranks: number, step: number): Int32Array {
  const level = Float64Array.from(weights, (weight) => (step > 0 ? Math.round(weight / step) * step : weight));
  const heaviestFirst = Array.from(level.keys()).sort((a, b) => level[b] - level[a] || a - b);
  const room = new Int32Array(ranks).fill(level.length / ranks);
  const load = new Float64Array(ranks);
  const owners = Int32Array.from(heaviestFirst, (chunk) => {
    const rank = lightestWithRoom(load, room);
    load[rank] += level[chunk];
    room[rank]--;
    return rank;
  });
  const result = new Int32Array(level.length);
  for (let from = 0, to = 0; from < owners.length; from = to) {
    while (to < owners.length && level[heaviestFirst[to]] === level[heaviestFirst[from]]) to++;
    // Chunks of one level are in the order of the row. So are their ranks then.
    owners.subarray(from, to).sort();
  }
  heaviestFirst.forEach((chunk, i) => (result[chunk] = owners[i]));
  return result;
}

function lightestWithRoom(load: Float64Array, room: Int32Array): number {
  let lightest = -1;
  for (let rank = 0; rank < load.length; rank++) {
    if (room[rank] > 0 && (lightest < 0 || load[rank] < load[lightest])) lightest = rank;
  }
  return lightest;
}
