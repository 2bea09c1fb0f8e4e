/** @file The batch of any step, as a pure function of rows, seed and step: a resumed run sees what it would have seen. */
import * as tf from '@tensorflow/tfjs';
import {type FlashMask, masks} from '../../src/index.js';
import type {Tokens} from './model.js';
import {IGNORED, type Row} from './packing.js';
import {shuffled, uniform} from './random.js';

/** Rows on the device. `dispose()` frees them. */
export interface Batch extends Tokens {
  /** `[B · T]` int32. */
  labels: tf.Tensor1D;
  /** Causal within each document; padding sees nothing and is seen by nothing. */
  mask: FlashMask;
  /** Tokens that are not padding. */
  tokens: number;
  dispose(): void;
}

/** The rows of a step: the rows in shuffled order, `size` a step, shuffled anew each time all have been seen. */
export function rowsOfStep(rows: readonly Row[], size: number, seed: number, step: number): Row[] {
  return Array.from({length: size}, (_, i) => {
    const index = step * size + i;
    const epoch = Math.floor(index / rows.length);
    return shuffled(rows, uniform(seed + epoch))[index % rows.length];
  });
}

/** Uploads rows as one batch. */
export function toBatch(rows: readonly Row[]): Batch {
  const length = rows[0].tokens.length;
  const stack = (field: 'tokens' | 'labels' | 'positions'): Int32Array => {
    const all = new Int32Array(rows.length * length);
    rows.forEach((row, b) => all.set(row[field], b * length));
    return all;
  };
  const ids = tf.tensor2d(stack('tokens'), [rows.length, length], 'int32');
  const positions = tf.tensor2d(stack('positions'), [rows.length, length], 'int32');
  const labels = tf.tensor1d(stack('labels'), 'int32');
  return {
    ids,
    positions,
    labels,
    mask: masks.causalDocument(
      rows.map((row) => row.lengths),
      {padTo: length},
    ),
    tokens: rows.flatMap((row) => row.lengths).reduce((sum, each) => sum + each, 0),
    dispose: () => tf.dispose([ids, positions, labels]),
  };
}

/** How many positions of the rows teach something. */
export function taughtPositions(rows: readonly Row[]): number {
  return rows.reduce((sum, {labels}) => sum + labels.filter((label) => label !== IGNORED).length, 0);
}
