/** @file Dense masked attention beside flashMaskAttention in one run: the same losses, and what each step costs. */
import type {Batch} from '../data/batch.js';
import {peakBytes} from '../memory.js';
import type {Trainer} from './trainer.js';

/** The losses must agree to this, relative. */
const TOLERANCE = 1e-4;

/** What one training step costs. */
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

/** The cost of a step of each trainer after training has warmed them up. No weight changes: the learning rate is 0. */
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

/** Lines of a table of both costs. */
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
