/**
 * @file The losses of fine-tuning, each a function with its own gradient: mean cross-entropy (SFT), direct preference
 * optimisation (DPO, Rafailov et al., arXiv 2305.18290) and the ranking loss of reward models (RM, Ouyang et al., arXiv
 * 2203.02155).
 *
 * Sums over chosen elements are gathers. They are not products with 0/1 matrices, which a GPU may round to TF32, and
 * not scattered sums, whose order changes from run to run. So equal inputs give an equal loss and gradient, bit for
 * bit.
 */
import * as tf from '@tensorflow/tfjs';

/** Two answers by their indices. The first is the better one. */
export type Pair = readonly [winner: number, loser: number];

/** Elements from `start` up to `end`. */
export interface Range {
  start: number;
  end: number;
}

export interface DpoOptions {
  /** How strongly the reference holds the policy. TRL's default is 0.1. */
  beta: number;
  /** Probability ε that a pair's order is wrong (conservative DPO). Default 0. */
  labelSmoothing?: number;
  /**
   * Divisor of the sum over pairs. Default: their number. A step of several batches passes the number of all its pairs.
   */
  total?: number;
}

export interface RmOptions {
  /** By how much a winner's reward should be higher. Default 0. */
  margin?: number;
  /** Factor c of c·(r_w + r_l)², which keeps rewards around 0. Default 0; TRL suggests 0.01. */
  centering?: number;
  /**
   * Divisor of the sum over samples. Default: their number. A step of several batches passes the number of all its
   * samples.
   */
  total?: number;
}

/**
 * Cross-entropy in nats, -Σ logProbs / total.
 *
 * @param logProbs Log-probabilities of the labels, `[R]`.
 * @param total Number of labels to average over. A step of several batches passes the number of all its labels.
 */
export function sftLoss(logProbs: tf.Tensor1D, total: number): tf.Scalar {
  return withGradient(logProbs, () => ({
    value: logProbs.sum().mul(-1 / total),
    gradient: tf.fill(logProbs.shape, -1 / total),
  }));
}

/**
 * Sum of `logProbs` over the range of each answer, `[A]`: log π(answer | question). DPO needs the sum, not the average.
 *
 * @param logProbs Log-probabilities of the labels, `[R]`.
 * @param ranges Disjoint ranges of elements of `logProbs`.
 * @throws when ranges overlap or exceed `logProbs`
 */
export function answerLogProbs(logProbs: tf.Tensor1D, ranges: readonly Range[]): tf.Tensor1D {
  const owners = ownersOf(ranges, logProbs.size);
  const sum = tf.customGrad(() => ({
    value: sumLists(
      logProbs,
      ranges.map(({start, end}) => Array.from({length: end - start}, (_, i) => start + i)),
    ),
    gradFunc: (dy: tf.Tensor) => tf.tidy(() => tf.gather(withZero(dy as tf.Tensor1D), tf.tensor1d(owners, 'int32'))),
  }));
  return sum(logProbs) as tf.Tensor1D;
}

/**
 * DPO's loss, and the implicit rewards β(policy - reference), `[A]`. With d = reward of the winner - reward of the
 * loser:
 *
 *     loss = -Σ over pairs of ((1 - ε) log σ(d) + ε log σ(-d)) / total
 *
 * Equation 7 of the paper, with the label smoothing ε of TRL's `DPOTrainer` (loss type `sigmoid`) and PaddleNLP's
 * `DPOCriterion`.
 *
 * @param logProbs Log-probabilities of the answers, `[A]` each, from `answerLogProbs`. The loss is differentiable by
 *   `policy`.
 */
export function dpoLoss(
  {policy, reference}: {policy: tf.Tensor1D; reference: tf.Tensor1D},
  pairs: readonly Pair[],
  {beta, labelSmoothing = 0, total = pairs.length}: DpoOptions,
): {loss: tf.Scalar; rewards: tf.Tensor1D} {
  const rewards = tf.tidy(() => policy.sub(reference).mul<tf.Tensor1D>(beta));
  const weights = pairs.map(() => 1 / total);
  return {loss: pairLoss(rewards, pairs, weights, {labelSmoothing, margin: 0, centering: 0}), rewards};
}

/**
 * The ranking loss of a reward model. Every pair of a sample's answers counts, and every sample has the same weight:
 *
 *     loss = Σ over samples of mean over its pairs of (-log σ(r_w - r_l - margin) + c·(r_w + r_l)²) / total
 *
 * Equation 1 of InstructGPT, with TRL's `RewardTrainer`'s margin and `center_rewards_coefficient` c.
 *
 * @param rewards Rewards of the answers, `[A]`.
 * @param samples The pairs of each sample. k ranked answers have k(k - 1) / 2 pairs.
 */
export function rmLoss(
  rewards: tf.Tensor1D,
  samples: readonly (readonly Pair[])[],
  {margin = 0, centering = 0, total = samples.length}: RmOptions = {},
): tf.Scalar {
  const weights = samples.flatMap((pairs) => pairs.map(() => 1 / (pairs.length * total)));
  return pairLoss(rewards, samples.flat(), weights, {labelSmoothing: 0, margin, centering});
}

/** Σ weight · (-(1 - ε) log σ(d) - ε log σ(-d) + c·(s_w + s_l)²) over the pairs, with d = s_w - s_l - margin. */
function pairLoss(
  scores: tf.Tensor1D,
  pairs: readonly Pair[],
  weights: readonly number[],
  {labelSmoothing, margin, centering}: {labelSmoothing: number; margin: number; centering: number},
): tf.Scalar {
  const pick = (side: 0 | 1) =>
    tf.gather(
      scores,
      tf.tensor1d(
        Int32Array.from(pairs, (pair) => pair[side]),
        'int32',
      ),
    );
  return withGradient(scores, () => {
    const [winners, losers] = [pick(0), pick(1)];
    const difference = winners.sub(losers).sub(margin);
    const both = winners.add(losers);
    const weight = tf.tensor1d([...weights]);
    // -log σ(x) is softplus(-x), which stays finite for every x.
    const right = difference
      .neg()
      .softplus()
      .mul(1 - labelSmoothing);
    const wrong = difference.softplus().mul(labelSmoothing);
    const value = right.add(wrong).add(both.square().mul(centering)).mul(weight).sum();

    const pulled = difference
      .neg()
      .sigmoid()
      .mul(1 - labelSmoothing);
    const slope = difference.sigmoid().mul(labelSmoothing).sub(pulled);
    const centre = both.mul(2 * centering);
    const byWinner = centre.add(slope).mul<tf.Tensor1D>(weight);
    const byLoser = centre.sub(slope).mul<tf.Tensor1D>(weight);
    return {value, gradient: sumLists(tf.concat([byWinner, byLoser]), placesInPairs(pairs, scores.size))};
  });
}

/** For each score its indices in the list of all pairs' winners followed by all their losers. */
function placesInPairs(pairs: readonly Pair[], scores: number): number[][] {
  const places = Array.from({length: scores}, (): number[] => []);
  pairs.forEach(([winner, loser], i) => {
    places[winner].push(i);
    places[loser].push(pairs.length + i);
  });
  return places;
}

/** A scalar function of `x` that computes its gradient along with its value. */
function withGradient(x: tf.Tensor1D, make: () => {value: tf.Tensor; gradient: tf.Tensor}): tf.Scalar {
  const run = tf.customGrad((...args) => {
    const save = args.at(-1) as unknown as tf.GradSaveFunc;
    const {value, gradient} = make();
    save([gradient]);
    return {value, gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => [saved[0].mul(dy)]};
  });
  return run(x) as tf.Scalar;
}

/** Sums the values at the indices of each list, `[lists]`. */
function sumLists(values: tf.Tensor1D, lists: readonly (readonly number[])[]): tf.Tensor1D {
  const longest = Math.max(1, ...lists.map((list) => list.length));
  const indices = new Int32Array(lists.length * longest).fill(values.size);
  lists.forEach((list, i) => indices.set(list, i * longest));
  return tf.gather(withZero(values), tf.tensor2d(indices, [lists.length, longest], 'int32')).sum(1);
}

function withZero(values: tf.Tensor1D): tf.Tensor1D {
  return tf.concat([values, tf.zeros<tf.Rank.R1>([1])]);
}

/** For each of `size` elements the index of the range that contains it, or the number of ranges. */
function ownersOf(ranges: readonly Range[], size: number): Int32Array {
  const owners = new Int32Array(size).fill(ranges.length);
  ranges.forEach(({start, end}, answer) => {
    for (let i = start; i < end; i++) {
      if (owners[i] !== ranges.length) {
        const list = ranges.map((range) => `${range.start}-${range.end}`).join();
        throw new Error(`answerLogProbs needs disjoint ranges within ${size} log-probabilities, got ${list}.`);
      }
      owners[i] = answer;
    }
  });
  return owners;
}
