/** @file How much work a batch is, beyond what every batch of its shape is. */
import type {FlashMask} from '../../../src/entries/index.js';
import type {Batch} from '../data/batch.js';
import type {LlamaConfig} from '../model/config.js';

/** Side of the tiles that attention computes or skips. */
const TILE = 128;
/** Of a product and its gradients: two forward and five backward in attention, one and two in the head. */
const ATTENTION_FLOPS = 2 * (2 + 5);
const HEAD_FLOPS = 2 * (1 + 2);

/**
 * Floating-point operations of the live tiles of all layers and of the logits of the labels, which differ between
 * batches. The other products are the same for all batches, because padding is computed too.
 */
export function workOf(batch: Batch, config: LlamaConfig): number {
  const {slidingWindows, heads, headSize, hiddenSize, vocabSize, scoreHead} = config;
  const tiles = new Map<FlashMask, number>();
  const tilesOf = (mask: FlashMask): number => {
    if (!tiles.has(mask)) tiles.set(mask, liveTiles(mask, TILE));
    return tiles.get(mask)!;
  };
  const live = slidingWindows.reduce<number>((sum, window) => sum + tilesOf(batch.mask(window)), 0);
  const attention = ATTENTION_FLOPS * live * TILE ** 2 * heads * headSize;
  return attention + (scoreHead ? 0 : HEAD_FLOPS * batch.labelled * hiddenSize * vocabSize);
}

/**
 * Tiles with a visible pair, over all rows, of a causal mask in which a key is visible up to its one bound. Looks at
 * each key once, where `FlashMask.sparsity` looks at each tile.
 */
export function liveTiles({bounds, keyLength}: FlashMask, tile: number): number {
  let live = 0;
  for (let row = 0; row < bounds!.length; row += keyLength) {
    for (let first = 0; first < keyLength; first += tile) {
      const keys = bounds!.subarray(row + first, row + Math.min(first + tile, keyLength));
      const visible = keys.some((end, i) => end > first + i);
      if (visible) live += Math.ceil(Math.max(...keys) / tile) - first / tile;
    }
  }
  return live;
}
