/**
 * @file A reward model: a score at the last token of each answer, higher for the better answer. All pairs of a
 * question's k answers make one term (Ouyang et al., arXiv 2203.02155, equation 1).
 */
import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../data/batch.js';
import {gatherRows} from '../gather_rows.js';
import {rmLoss} from '../losses.js';
import {type Objective, answerPairs, mean} from './objective.js';

/**
 * @param centering Weight of a pair's squared reward sum, which keeps rewards near 0 (arXiv 2312.09244); 0 for none.
 */
export function rmObjective(centering: number): Objective {
  return {
    terms: ({samples}) => samples.length,
    loss({score}, batch, hidden, total) {
      const rewards = rewardsOf(score, batch, hidden);
      return {loss: rmLoss(rewards, answerPairs(batch), {centering, total}), observations: {rewards: tf.keep(rewards)}};
    },
    metrics({rewards}, batches) {
      let before = 0;
      const margins = batches.flatMap((batch) => {
        const offset = before;
        before += batch.answers.length;
        return answerPairs(batch)
          .flat()
          .map(([better, worse]) => rewards[offset + better] - rewards[offset + worse]);
      });
      return {
        accuracy: mean(margins.map((margin) => Number(margin > 0))),
        margin: mean(margins),
        min_reward: Math.min(...rewards),
        mean_reward: mean(rewards),
        max_reward: Math.max(...rewards),
      };
    },
  };
}

/** The score of each answer, `[answers]`. */
export function rewardsOf(score: tf.Tensor2D, {answers}: Batch, hidden: tf.Tensor2D): tf.Tensor1D {
  const last = Int32Array.from(answers, ({end}) => end - 1);
  return tf.matMul(gatherRows(hidden, last), score, false, true).flatten() as tf.Tensor1D;
}
