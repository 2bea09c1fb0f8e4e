/**
 * @file A reward model: a score at the last token of each answer, higher for the better answer. All pairs of a
 * question's k answers make one term (Ouyang et al., arXiv 2203.02155, equation 1).
 */
import * as tf from '@tensorflow/tfjs';
import type {Batch} from '../../data/batch.js';
import {gatherRows} from '../gather_rows.js';
import {rmLoss} from '../losses.js';
import {type Objective, answerPairs, mean, observed, ofTeam, perRank} from './objective.js';

/**
 * @param centering Weight of a pair's squared reward sum, which keeps rewards near 0 (arXiv 2312.09244); 0 for none.
 */
export function rmObjective(centering: number): Objective {
  return {
    terms: ({samples}) => samples.length,
    loss({score}, batch, hidden, total) {
      const rewards = rewardsOf(score, batch, hidden);
      const loss = rmLoss(rewards, answerPairs(batch), {centering, total});
      return {loss: perRank(batch, loss), observations: observed(batch, {rewards})};
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
export function rewardsOf(score: tf.Tensor2D, batch: Batch, hidden: tf.Tensor2D): tf.Tensor1D {
  const scores = (rows: number[]): tf.Tensor2D =>
    tf.matMul(gatherRows(hidden, Int32Array.from(rows)), score, false, true);
  const {answers, shared} = batch;
  if (!shared) return scores(answers.map(({end}) => end - 1)).flatten();
  const here = shared.ends.filter((row) => row >= 0);
  // A rank without answers computes a score for nothing, since the others wait for its backward pass.
  const own = here.length > 0 ? scores(here) : scores([0]).mul<tf.Tensor2D>(0);
  let next = 0;
  const places = shared.ends.map((row) => (row >= 0 ? next++ : here.length));
  const all = tf.gather(tf.concat([own.flatten(), tf.zeros([1])]), tf.tensor1d(places, 'int32')) as tf.Tensor1D;
  return ofTeam(batch, all);
}
