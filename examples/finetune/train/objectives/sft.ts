/** @file Supervised fine-tuning: the mean negative log-probability of the tokens of the answers. */
import {IGNORED} from '../../data/sample.js';
import {sftLoss} from '../losses.js';
import {tokenLogProbs} from '../token_log_probs.js';
import {type Objective, type Observations, mean} from './objective.js';

export const sftObjective: Objective = {
  terms: ({labelled}) => labelled,
  loss(model, {labels}, hidden, total) {
    const rows = labelledRows(labels);
    const targets = rows.map((row) => labels[row]);
    let observations: Observations = {};
    const logProbs = tokenLogProbs(hidden, model.network.head, rows, targets, {
      onSums: (sums) => (observations = {...sums}),
    });
    return {loss: sftLoss(logProbs, total), observations};
  },
  metrics({entropy, correct}, batches) {
    const labelled = batches.reduce((sum, batch) => sum + batch.labelled, 0);
    const perToken = (sums: Float32Array): number => (mean(sums) * sums.length) / labelled;
    return {entropy: perToken(entropy), mean_token_accuracy: perToken(correct)};
  },
};

/** Positions that have a label. */
export function labelledRows(labels: Int32Array): Int32Array {
  const rows: number[] = [];
  labels.forEach((label, row) => {
    if (label !== IGNORED) rows.push(row);
  });
  return Int32Array.from(rows);
}
