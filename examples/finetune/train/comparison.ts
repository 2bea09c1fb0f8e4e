/**
 * @file Compares dense masked attention with flashMaskAttention in one run: the same losses, and the cost of a step.
 */
import type {Batch} from '../data/batch.js';
import {peakBytes} from '../memory.js';
import type {Trainer} from './trainer.js';

/** Largest relative difference allowed between the losses. */
const TOLERANCE = 1e-4;

/** The cost of one training step. */
export interface Cost {
  milliseconds: number;
  /** Peak memory beyond weights, optimiser and batch. */
  bytes: number;
}

/** Losses of both trainers, step by step. */
export class LossComparison {
  /** Largest relative difference so far. */
  largest = 0;
  steps = 0;

  add(flash: number, dense: number): void {
    this.steps++;
    this.largest = Math.max(this.largest, Math.abs(flash - dense) / Math.abs(dense));
  }

  get agrees(): boolean {
    return this.largest <= TOLERANCE;
  }

  toString(): string {
    const differ = `flashMaskAttention and dense differ by at most ${this.largest.toExponential(1)} relative`;
    const over = `over ${this.steps} steps (allowed ${TOLERANCE.toExponential(0)})`;
    return `Same losses        ${this.agrees ? 'yes' : 'NO'}: ${differ} ${over}`;
  }
}

/**
 * The cost of one step per trainer, after training has warmed them up. The learning rate is 0, so no weight changes.
 */
export async function costsOfStep(trainers: readonly Trainer[], batches: readonly Batch[]): Promise<Cost[]> {
  const costs: Cost[] = [];
  for (const trainer of trainers) {
    let milliseconds = 0;
    const bytes = await peakBytes(async () => {
      ({milliseconds} = await trainer.step(batches, 0));
    });
    costs.push({milliseconds, bytes});
  }
  return costs;
}

/** A table of both costs, as lines. */
export function costTable(flash: Cost, dense: Cost, tokens: string): string {
  const seconds = ({milliseconds}: Cost): string => `${(milliseconds / 1000).toFixed(2)} s`.padStart(10);
  const megabytes = ({bytes}: Cost): string => `${(bytes / 1e6).toFixed(1)} MB`.padStart(12);
  const ratio = (a: number, b: number): string => `${(a / b).toFixed(1)}x`;
  return [
    `One training step on ${tokens}`.padEnd(46) + 'time'.padStart(10) + 'peak memory'.padStart(14),
    '  flashMaskAttention'.padEnd(46) + seconds(flash) + `  ${megabytes(flash)}`,
    '  dense masked attention'.padEnd(46) + seconds(dense) + `  ${megabytes(dense)}`,
    '  dense / flashMaskAttention'.padEnd(46) +
      ratio(dense.milliseconds, flash.milliseconds).padStart(10) +
      ratio(dense.bytes, flash.bytes).padStart(14),
  ].join('\n');
}
