/** @file Chooses the size of chunks and deals them: balanced to a given imbalance, then with little to send. */
import type {HostBounds} from '../../mask/bounds/intervals.js';
import {dealChunks} from './deal_chunks.js';
import {chunkWeights, type Layout, placeOn, seenBlocks} from './layout.js';
import {type KeyBlocks, keyBlocksOf, TILE} from './live_tiles.js';

/** A layout with its balance. */
export interface Balanced {
  layout: Layout;
  /** The key blocks of the mask. A block lies within a chunk. */
  blocks: KeyBlocks;
  /** Live tiles of each rank, in tiles as high and wide as a key block. */
  liveTiles: number[];
  /** How much more the busiest rank has than the mean, 0 if all have as much. */
  imbalance: number;
}

/** Most chunks of a rank that are tried. */
const MOST_CHUNKS = 64;
/** Weights that differ by so many mean weights count as equal: neighbours then come together. */
const STEPS = [0, 0.05, 0.1, 0.25, 0.5, 1];
/** Smaller chunks and larger steps must bring the keys down to this share. */
const WORTH = 0.95;
/** Most key blocks that the keys to send are estimated with. */
const COARSE = 1024;

/**
 * A layout with at most `most` imbalance: with few keys to send, and of those that send about as few, the one with the
 * largest chunks. Where there is none, the layout with the least imbalance.
 *
 * @param chunk Rows of a chunk. Default: tried are a rank's rows divided by 1, 2, 4, and so on.
 */
export function chooseLayout(mask: HostBounds, ranks: number, most: number, chunk?: number): Balanced {
  const length = mask.queryLength;
  const chunks = chunk === undefined ? chunkSizes(length / ranks) : [chunk];
  const coarse = keyBlocksOf(mask, length / largestDivisor(length, COARSE));
  let best: Balanced | undefined;
  let fewest = Infinity;
  for (const tried of balancedLayouts(mask, ranks, chunks)) {
    if (tried.imbalance > most) {
      if (fewest === Infinity && tried.imbalance < (best?.imbalance ?? Infinity)) best = tried;
      continue;
    }
    const keys = keysSeen(tried.layout, coarse);
    if (keys < WORTH * fewest) [best, fewest] = [tried, keys];
  }
  return best!;
}

/** The layouts to choose from: large chunks and small steps first. Steps that change nothing are left out. */
function* balancedLayouts(mask: HostBounds, ranks: number, chunks: readonly number[]): Generator<Balanced> {
  const length = mask.queryLength;
  let blocks: KeyBlocks | undefined;
  for (const chunk of chunks) {
    const block = largestDivisor(chunk, TILE);
    if (blocks?.block !== block) blocks = keyBlocksOf(mask, block);
    const weights = chunkWeights(blocks, chunk);
    let before: Int32Array | undefined;
    for (const step of STEPS) {
      const tried = deal({ranks, length, chunk}, blocks, weights, step);
      const {owner} = tried.layout;
      if (!before?.every((rank, i) => rank === owner[i])) yield tried;
      before = owner;
    }
  }
}

/** Sizes of chunks to try, of `rows` rows of a rank. Chunks smaller than a tile would leave tiles partly filled. */
function chunkSizes(rows: number): number[] {
  const sizes: number[] = [];
  for (let count = 1; count <= MOST_CHUNKS && rows % count === 0; count *= 2) {
    if (count <= 2 || rows / count >= TILE) sizes.push(rows / count);
  }
  return sizes;
}

/** The largest divisor of `number` that is at most `most`. */
function largestDivisor(number: number, most: number): number {
  let divisor = Math.min(number, most);
  while (number % divisor !== 0) divisor--;
  return divisor;
}

/** The same layout with the balance that it has for another mask. */
export function withOtherMask({layout, blocks}: Balanced, mask: HostBounds): Balanced {
  const others = keyBlocksOf(mask, blocks.block);
  return balanceOf(layout, others, chunkWeights(others, layout.chunk));
}

function deal(sizes: Omit<Layout, 'owner'>, blocks: KeyBlocks, weights: Float64Array, step: number): Balanced {
  const total = weights.reduce((a, b) => a + b, 0);
  const owner = dealChunks(weights, sizes.ranks, (step * total) / weights.length);
  return balanceOf({...sizes, owner}, blocks, weights);
}

function balanceOf(layout: Layout, blocks: KeyBlocks, weights: Float64Array): Balanced {
  const {ranks, owner} = layout;
  const total = weights.reduce((a, b) => a + b, 0);
  const liveTiles = Array<number>(ranks).fill(0);
  owner.forEach((rank, index) => (liveTiles[rank] += weights[index]));
  const imbalance = total === 0 ? 0 : (Math.max(...liveTiles) * ranks) / total - 1;
  return {layout, blocks, liveTiles, imbalance};
}

/** Key blocks of the rank that sees the most, and of the mean rank, added up: both cost time. */
function keysSeen(layout: Layout, blocks: KeyBlocks): number {
  const all = Int32Array.from({length: blocks.count}, (_, index) => index);
  const rows = layout.length / layout.ranks;
  let [most, sum] = [0, 0];
  for (let rank = 0; rank < layout.ranks; rank++) {
    const {length} = seenBlocks(blocks, all, placeOn(layout, rank), rows);
    most = Math.max(most, length);
    sum += length;
  }
  return most + sum / layout.ranks;
}
