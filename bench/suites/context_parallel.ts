/**
 * @file The suite `context-parallel`: plans for ranks that share one row. It computes how balanced they are and which
 * keys travel, without ranks or a device. Beside them stand the usual ways to deal a row: a contiguous part to each
 * rank, and zigzag, a chunk from each end.
 */
import {planContextParallel} from '../../src/distributed/context_parallel.js';
import {chunkWeights} from '../../src/distributed/context_parallel/layout.js';
import {keyBlocksOf, TILE} from '../../src/distributed/context_parallel/live_tiles.js';
import type {FlashMask} from '../../src/entries/index.js';
import {maskOf} from '../masks.js';
import type {Emit, Figures} from '../record.js';

interface ContextParallelBenchOptions {
  masks: string[];
  lengths: number[];
  ranks: number[];
}

export function runContextParallel({masks, lengths, ranks}: ContextParallelBenchOptions, emit: Emit): Promise<void> {
  for (const N of lengths) {
    for (const name of masks) {
      const mask = maskOf(name, N, 'paper');
      const {maskedPairs: masked} = mask.sparsity({blockQ: TILE, blockK: N});
      for (const count of ranks) {
        const call = {suite: 'context-parallel', device: 'any', mask: name, N, ranks: count} as const;
        emit({...call, masked, ...figuresOf(mask, count)});
      }
    }
  }
  return Promise.resolve();
}

function figuresOf(mask: FlashMask, ranks: number): Figures {
  const started = performance.now();
  const plan = planContextParallel(mask, {ranks});
  plan.exchange(0);
  plan.localMask(0);
  const planMs = performance.now() - started;
  const received = Array.from({length: ranks}, (_, rank) => plan.receivedRows(rank));
  const halves = chunkWeights(keyBlocksOf(mask, TILE), mask.keyLength / ranks / 2);
  return {
    imbalance: plan.imbalance,
    zigzagImbalance: imbalanceOf(received.map((_, rank) => halves[rank] + halves[2 * ranks - 1 - rank])),
    contiguousImbalance: imbalanceOf(received.map((_, rank) => halves[2 * rank] + halves[2 * rank + 1])),
    chunk: plan.chunk,
    receivedRows: received.reduce((a, b) => a + b) / ranks,
    mostReceivedRows: Math.max(...received),
    planMs,
  };
}

/** How much more the largest is than the mean. */
function imbalanceOf(loads: readonly number[]): number {
  return (Math.max(...loads) * loads.length) / loads.reduce((a, b) => a + b) - 1;
}
