/** @file Supervised fine-tuning: the mean negative log-probability of the tokens of the answers. */
import {labelLogProbs} from '../label_log_probs.js';
import {sftLoss} from '../losses.js';
import {type Objective, type Observations, mean} from './objective.js';

export const sftObjective: Objective = {
  terms: ({labelled}) => labelled,
  loss(model, batch, hidden, total) {
    let observations: Observations = {};
    const logProbs = labelLogProbs(model, batch, hidden, {onSums: (sums) => (observations = {...sums})});
    return {loss: sftLoss(logProbs, total), observations};
  },
  metrics({entropy, correct}, batches) {
    const labelled = batches.reduce((sum, batch) => sum + batch.labelled, 0);
    const perToken = (sums: Float32Array): number => (mean(sums) * sums.length) / labelled;
    return {entropy: perToken(entropy), mean_token_accuracy: perToken(correct)};
  },
};
