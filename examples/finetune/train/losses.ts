/**
 * @file The losses of fine-tuning, each one function with a gradient of its own: mean cross-entropy (SFT), direct preference optimisation
 * (DPO, Rafailov et al., arXiv 2305.18290) and the ranking loss of reward models (RM, Ouyang et al., arXiv 2203.02155).
 *
 * Sums over chosen elements are gathers, never products with 0/1 matrices, which a GPU may round to TF32, and never scattered sums,
 * whose order changes from run to run: the same inputs give the same loss and gradient, bit for bit.
 */
import * as tf from '@tensorflow/tfjs';

/** Two answers by their indices: the first is the better one. */
export type Pair = readonly [winner: number, loser: number];

/** Elements from `start` up to `end`. */
export interface Range {
  start: number;
  end: number;
}

export interface DpoOptions {
  /** How strongly the policy is held to the reference: TRL's default is 0.1. */
  beta: number;
  /** Probability ε that a pair's order is wrong (conservative DPO), 0 unless given. */
  labelSmoothing?: number;
  /** What the sum over pairs is divided by: their number unless given. A step of several batches gives the number of all its pairs. */
  total?: number;
}

export interface RmOptions {
  /** By how much a winner's reward should be higher, 0 unless given. */
  margin?: number;
  /** Factor c of c·(r_w + r_l)², which keeps rewards around 0: 0 unless given, TRL suggests 0.01. */
  centering?: number;
  /** What the sum over samples is divided by: their number unless given. A step of several batches gives the number of all its samples. */
  total?: number;
}

/**
 * Cross-entropy in nats, -Σ logProbs / total.
 *
 * @param logProbs Of the labels, `[R]`.
 * @param total Number of labels that the mean is over: a step of several batches gives the number of all its labels.
 */
export function sftLoss(logProbs: tf.Tensor1D, total: number): tf.Scalar {
  return withGradient(logProbs, () => ({
    value: logProbs.sum().mul(-1 / total),
    gradient: tf.fill(logProbs.shape, -1 / total),
  }));
}

/**
 * Sum of `logProbs` over the range of each answer, `[A]`: log π(answer | question), summed and not averaged, as DPO reads it.
 *
 * @param logProbs Of the labels, `[R]`.
 * @param ranges Disjoint ranges of its elements.
 * @throws when ranges overlap or reach out of `logProbs`
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
 * DPO's loss, and the implicit rewards β(policy - reference), `[A]`. With d = reward of the winner - reward of the loser:
 *
 *     loss = -Σ over pairs of ((1 - ε) log σ(d) + ε log σ(-d)) / total
 *
 * Equation 7 of the paper, with the label smoothing ε of TRL's `DPOTrainer` (loss type `sigmoid`) and PaddleNLP's `DPOCriterion`.
 *
 * @param logProbs Of the answers, `[A]` each, from `answerLogProbs`. The loss is differentiable by `policy`.
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
 * The ranking loss of a reward model. Every pair of a sample's answers counts, and every sample the same:
 *
 *     loss = Σ over samples of mean over its pairs of (-log σ(r_w - r_l - margin) + c·(r_w + r_l)²) / total
 *
 * Equation 1 of InstructGPT, with TRL's `RewardTrainer`'s margin and `center_rewards_coefficient` c.
 *
 * @param rewards Of the answers, `[A]`.
 * @param samples The pairs of each sample: of k ranked answers, all k(k - 1) / 2.
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
    // -log σ(x) is softplus(-x), which no size of x makes infinite.
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

/** For each score its places in a list of all pairs' winners followed by all their losers. */
function placesInPairs(pairs: readonly Pair[], scores: number): number[][] {
  const places = Array.from({length: scores}, (): number[] => []);
  pairs.forEach(([winner, loser], i) => {
    places[winner].push(i);
    places[loser].push(pairs.length + i);
  });
  return places;
}

/** A scalar function of `x` whose gradient is known along with its value. */
function withGradient(x: tf.Tensor1D, make: () => {value: tf.Tensor; gradient: tf.Tensor}): tf.Scalar {
  const run = tf.customGrad((...args) => {
    const save = args.at(-1) as unknown as tf.GradSaveFunc;
    const {value, gradient} = make();
    save([gradient]);
    return {value, gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => [saved[0].mul(dy)]};
  });
  return run(x) as tf.Scalar;
}

/** The sum of the values at the indices of each list, `[lists]`. */
function sumLists(values: tf.Tensor1D, lists: readonly (readonly number[])[]): tf.Tensor1D {
  const longest = Math.max(1, ...lists.map((list) => list.length));
  const indices = new Int32Array(lists.length * longest).fill(values.size);
  lists.forEach((list, i) => indices.set(list, i * longest));
  return tf.gather(withZero(values), tf.tensor2d(indices, [lists.length, longest], 'int32')).sum(1);
}

function withZero(values: tf.Tensor1D): tf.Tensor1D {
  return tf.concat([values, tf.zeros<tf.Rank.R1>([1])]);
}

/** For each of `size` elements the index of the range that holds it, or the number of ranges. */
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
