/** @file Which rank has which rows, the work of chunks, and the keys that the rows of a rank see. Pure numbers. */
import {addLiveBlocks, type KeyBlocks, liveRows, nothing, type Place, readHidden} from './live_tiles.js';

/** Which rank has which rows. */
export interface Layout {
  ranks: number;
  /** Rows of the whole row. */
  length: number;
  /** Rows of a chunk. Divides length / ranks. */
  chunk: number;
  /** The rank of each chunk. */
  owner: Int32Array;
}

/** Live tiles of each chunk, in tiles as high and wide as a key block, over all batches and heads of the mask. */
export function chunkWeights(blocks: KeyBlocks, chunk: number): Float64Array {
  const {block, count, heads} = blocks;
  const length = count * block;
  const changes = new Int32Array(count + 1);
  const [hidden, live] = [nothing(), [] as number[]];
  const place: Place = (bound) => Math.min(length, Math.max(0, bound));
  for (let head = 0; head < heads; head++) {
    for (let index = 0; index < count; index++) {
      readHidden(blocks, head, index, place, hidden);
      liveRows(hidden, length, live);
      addLiveBlocks(live, block, changes);
    }
  }
  const weights = new Float64Array(length / chunk);
  let tiles = 0;
  for (let index = 0; index < count; index++) {
    tiles += changes[index];
    weights[Math.floor((index * block) / chunk)] += tiles;
  }
  return weights;
}

/** The rows of a rank, in order. */
export function rowsOf({ranks, length, chunk, owner}: Layout, rank: number): Int32Array {
  const rows = new Int32Array(length / ranks);
  let at = 0;
  owner.forEach((of, index) => {
    if (of === rank) for (let i = 0; i < chunk; i++) rows[at++] = index * chunk + i;
  });
  return rows;
}

/** Maps bounds to the rows of a rank: how many of its rows come before. */
export function placeOn({ranks, length, chunk, owner}: Layout, rank: number): Place {
  const before = new Int32Array(owner.length);
  for (let i = 1; i < owner.length; i++) before[i] = before[i - 1] + (owner[i - 1] === rank ? chunk : 0);
  return (bound) => {
    if (bound <= 0) return 0;
    if (bound >= length) return length / ranks;
    const index = Math.floor(bound / chunk);
    return before[index] + (owner[index] === rank ? bound - index * chunk : 0);
  };
}

/** All key blocks: those of rank 0 in order, then those of rank 1, and so on. Each rank has as many. */
export function byOwner({ranks, chunk, owner}: Layout, block: number): Int32Array {
  const perChunk = chunk / block;
  const order = new Int32Array(owner.length * perChunk);
  const next = Int32Array.from({length: ranks}, (_, rank) => (rank * order.length) / ranks);
  owner.forEach((rank, index) => {
    for (let i = 0; i < perChunk; i++) order[next[rank]++] = index * perChunk + i;
  });
  return order;
}

/** Those key blocks, out of `candidates`, of which some of `rows` rows may see a key. */
export function seenBlocks(blocks: KeyBlocks, candidates: Int32Array, place: Place, rows: number): Int32Array {
  const [hidden, live] = [nothing(), [] as number[]];
  return candidates.filter((index) => {
    for (let head = 0; head < blocks.heads; head++) {
      readHidden(blocks, head, index, place, hidden);
      liveRows(hidden, rows, live);
      if (live.length > 0) return true;
    }
    return false;
  });
}

/** The rows of key blocks, by the first row of each. */
export function rowsOfBlocks(firstRows: ArrayLike<number>, block: number): Int32Array {
  const rows = new Int32Array(firstRows.length * block);
  for (let i = 0; i < rows.length; i++) rows[i] = firstRows[Math.floor(i / block)] + (i % block);
  return rows;
}
