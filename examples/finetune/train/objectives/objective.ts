/** @file The objective of a training run: supervised fine-tuning, direct preference optimisation, or a reward model. */
import * as tf from '@tensorflow/tfjs';
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
   * step. If ranks share the rows, the share of this rank: losses and observations are added up over the ranks.
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

/**
 * The sum over the ranks that share the rows, if ranks do: of what each has of the answers. From there on, all compute
 * the same.
 */
export function ofTeam<T extends tf.Tensor>({shared}: Batch, own: T): T {
  return shared ? shared.team.allReduce(own) : own;
}

/** This rank's part of a loss that all ranks of a team compute: the loss is the sum over the ranks. */
export function perRank({shared}: Batch, loss: tf.Scalar): tf.Scalar {
  return shared ? loss.mul(1 / shared.team.size) : loss;
}

/** Observations that all ranks of a team have. They are added up, so all ranks but one give zeros. */
export function observed({shared}: Batch, observations: Observations): Observations {
  const own = (x: tf.Tensor): tf.Tensor => tf.keep(shared && shared.team.rank > 0 ? tf.zerosLike(x) : x);
  return Object.fromEntries(Object.entries(observations).map(([name, x]) => [name, own(x)]));
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
