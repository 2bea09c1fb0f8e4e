/** @file The objective of a training run: supervised fine-tuning, direct preference optimisation, or a reward model. */
import type * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../data/batch.js';
import type {MetricsRecord} from '../metrics.js';
import type {TrainedModel} from '../trained_model.js';

/**
 * Numbers behind a loss, for the metrics. They outlive the gradient (`tf.keep`), and the receiver disposes them.
 */
export type Observations = Record<string, tf.Tensor>;

export interface Objective {
  /** Number of terms of a batch in the mean of the loss: labels, or questions. */
  terms(batch: Batch): number;
  /** What the loss of a batch needs without a gradient: DPO's reference log-probabilities. */
  prepare?(batch: Batch): Promise<tf.Tensor>;
  /**
   * The batch's share of a step's loss: the sum of its terms over `total`, the number of terms of all batches in the
   * step.
   *
   * @param hidden `[B · T, hiddenSize]`
   * @param prepared What `prepare` returned.
   */
  loss(
    model: TrainedModel,
    batch: Batch,
    hidden: tf.Tensor2D,
    total: number,
    prepared?: tf.Tensor,
  ): {loss: tf.Scalar; observations: Observations};
  /** The metrics of a step under TRL's names, from the observations of all its batches in order. */
  metrics(
    observations: Readonly<Record<string, Float32Array>>,
    batches: readonly Batch[],
  ): Omit<MetricsRecord, 'global_step'>;
}

export function mean(values: ArrayLike<number>): number {
  return Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;
}

/**
 * Every (better, worse) pair of answers to the same question, as indices into `batch.answers`. The best comes first.
 */
export function answerPairs({samples}: Batch): [better: number, worse: number][][] {
  return samples.map(({answers}) =>
    answers.flatMap((better, i) => answers.slice(i + 1).map((worse): [number, number] => [better, worse])),
  );
}
