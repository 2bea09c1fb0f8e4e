/** @file The log-probabilities of a batch's labels, also of a part of it that has none. */
import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../data/batch.js';
import {IGNORED} from '../data/sample.js';
import {type TokenLogProbsOptions, type TokenSums, tokenLogProbs} from './token_log_probs.js';
import type {TrainedModel} from './trained_model.js';

/** Positions that have a label. */
export function labelledRows(labels: Int32Array): Int32Array {
  const rows: number[] = [];
  labels.forEach((label, row) => {
    if (label !== IGNORED) rows.push(row);
  });
  return Int32Array.from(rows);
}

/**
 * The log-probability of each label, `[labels]`.
 *
 * A rank that shares rows may have none of their labels. Then it is one zero, with a gradient of zeros: the backward
 * pass of the rank must make the calls that the others wait for.
 */
export function labelLogProbs(
  {network: {head}}: TrainedModel,
  {labels, shared}: Batch,
  hidden: tf.Tensor2D,
  options: TokenLogProbsOptions = {},
): tf.Tensor1D {
  const rows = labelledRows(labels);
  if (rows.length > 0 || !shared) {
    return tokenLogProbs(
      hidden,
      head,
      rows,
      rows.map((row) => labels[row]),
      options,
    );
  }
  const {onSums} = options;
  const none = onSums && {...options, onSums: (sums: TokenSums) => onSums(zeroed(sums))};
  return tokenLogProbs(hidden, head, Int32Array.of(0), Int32Array.of(0), none ?? options).mul(0);
}

function zeroed({entropy, correct}: TokenSums): TokenSums {
  tf.dispose([entropy, correct]);
  return {entropy: tf.keep(tf.scalar(0)), correct: tf.keep(tf.scalar(0))};
}
