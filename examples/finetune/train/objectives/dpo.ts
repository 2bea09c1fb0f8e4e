/**
 * @file Direct preference optimisation (Rafailov et al., arXiv 2305.18290) on questions that share a row with all their
 * answers. If there are more than two answers, sorted from the best, every pair of them counts.
 */
import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../data/batch.js';
import {labelLogProbs, labelledRows} from '../label_log_probs.js';
import {type DpoOptions, answerLogProbs, dpoLoss} from '../losses.js';
import {before} from '../shared_rows.js';
import type {TrainedModel} from '../trained_model.js';
import {type Objective, answerPairs, mean, observed, ofTeam, perRank} from './objective.js';

/** Log-probability of each answer of a batch under the reference, `[answers]`. */
export type Reference = (batch: Batch) => Promise<tf.Tensor1D>;

export function dpoObjective({beta, labelSmoothing}: Omit<DpoOptions, 'total'>, reference: Reference): Objective {
  return {
    terms: (batch) => answerPairs(batch).flat().length,
    prepare: reference,
    loss(model, batch, hidden, total, prepared) {
      const policy = batchLogProbs(model, batch, hidden);
      const logProbs = {policy, reference: prepared as tf.Tensor1D};
      const {loss, rewards} = dpoLoss(logProbs, answerPairs(batch).flat(), {beta, labelSmoothing, total});
      const logits = meanLogits(model, batch, hidden);
      return {loss: perRank(batch, loss), observations: observed(batch, {rewards, logps: policy, logits})};
    },
    metrics({rewards, logps, logits}, batches) {
      const {better, worse} = pairsOfStep(batches);
      const at = (values: Float32Array, indices: number[]): number[] => indices.map((i) => values[i]);
      const margins = better.map((winner, i) => rewards[winner] - rewards[worse[i]]);
      return {
        'rewards/chosen': mean(at(rewards, better)),
        'rewards/rejected': mean(at(rewards, worse)),
        'rewards/margins': mean(margins),
        'rewards/accuracies': mean(margins.map((margin) => Number(margin > 0))),
        'logps/chosen': mean(at(logps, better)),
        'logps/rejected': mean(at(logps, worse)),
        'logits/chosen': mean(at(logits, better)),
        'logits/rejected': mean(at(logits, worse)),
      };
    },
  };
}

/** Sum of the log-probabilities of each answer's tokens, `[answers]`. */
export function batchLogProbs(model: TrainedModel, batch: Batch, hidden: tf.Tensor2D): tf.Tensor1D {
  const ranges = rowRanges(labelledRows(batch.labels), batch.answers);
  return ofTeam(batch, answerLogProbs(labelLogProbs(model, batch, hidden), ranges));
}

/** The range of each answer's rows among the labelled rows. */
function rowRanges(rows: Int32Array, answers: Batch['answers']): {start: number; end: number}[] {
  return answers.map(({start, end}) => ({start: before(rows, start), end: before(rows, end)}));
}

/**
 * Mean logit over the vocabulary and an answer's positions, `[answers]`. The mean commutes with the product with the
 * head, so the head is averaged first.
 */
function meanLogits({network}: TrainedModel, batch: Batch, hidden: tf.Tensor2D): tf.Tensor1D {
  return tf.tidy(() => {
    const rows = labelledRows(batch.labels);
    const ranges = rowRanges(rows, batch.answers);
    const direction = network.head.mean(0).reshape([-1, 1]) as tf.Tensor2D;
    const logits = tf.matMul(hidden, direction).flatten().gather(tf.tensor1d(rows, 'int32')) as tf.Tensor1D;
    const lengths = tf.tensor1d(ranges.map(({start, end}) => end - start));
    return ofTeam(batch, answerLogProbs(logits, ranges)).div(ofTeam(batch, lengths));
  });
}

/** Indices into the answers of all batches of a step. */
function pairsOfStep(batches: readonly Batch[]): {better: number[]; worse: number[]} {
  let before = 0;
  const pairs = batches.flatMap((batch) => {
    const offset = before;
    before += batch.answers.length;
    return answerPairs(batch)
      .flat()
      .map(([better, worse]) => [better + offset, worse + offset]);
  });
  return {better: pairs.map(([better]) => better), worse: pairs.map(([, worse]) => worse)};
}
