/**
 * @file What examples/finetune/train computes, in float64 and from the definitions, one plain loop per sum:
 * log-probabilities, losses, AdamW. Gradients are central differences of these. The file shares no code with the
 * application.
 */

/** A matrix, row by row. */
export type Matrix = readonly (readonly number[])[];

/** log softmax(hidden[rows[i]]·headᵀ)[labels[i]] for every i. */
export function logProbs(hidden: Matrix, head: Matrix, rows: ArrayLike<number>, labels: ArrayLike<number>): number[] {
  return Array.from(rows, (row, i) => {
    const logits = logitsOf(hidden[row], head);
    return logits[labels[i]] - logSumExp(logits);
  });
}

/** The sum of the entropies of softmax(hidden[row]·headᵀ). */
export function entropy(hidden: Matrix, head: Matrix, rows: ArrayLike<number>): number {
  return sum(
    Array.from(rows, (row) => {
      const logits = logitsOf(hidden[row], head);
      const normalizer = logSumExp(logits);
      return -sum(logits.map((x) => Math.exp(x - normalizer) * (x - normalizer)));
    }),
  );
}

/** The number of labels that have the largest logit. */
export function correct(hidden: Matrix, head: Matrix, rows: ArrayLike<number>, labels: ArrayLike<number>): number {
  return Array.from(rows).filter((row, i) => {
    const logits = logitsOf(hidden[row], head);
    return logits.indexOf(Math.max(...logits)) === labels[i];
  }).length;
}

function logitsOf(x: readonly number[], head: Matrix): number[] {
  return head.map((weights) => sum(weights.map((weight, c) => weight * x[c])));
}

function logSumExp(values: readonly number[]): number {
  const largest = Math.max(...values);
  return largest + Math.log(sum(values.map((x) => Math.exp(x - largest))));
}

type Pairs = readonly (readonly [number, number])[];

/**
 * Mean over pairs of -(1 - smoothing) log σ(d) - smoothing log σ(-d), where d = β of the difference of the log-ratios.
 */
export function dpo(
  policy: readonly number[],
  reference: readonly number[],
  pairs: Pairs,
  beta: number,
  smoothing: number,
): number {
  const losses = pairs.map(([winner, loser]) => {
    const d = beta * (policy[winner] - policy[loser] - (reference[winner] - reference[loser]));
    return -(1 - smoothing) * logSigmoid(d) - smoothing * logSigmoid(-d);
  });
  return sum(losses) / pairs.length;
}

/** Mean over samples of the mean over their pairs of -log σ(r_w - r_l - margin) + centering·(r_w + r_l)². */
export function rm(rewards: readonly number[], samples: readonly Pairs[], margin: number, centering: number): number {
  const losses = samples.map((pairs) => {
    const terms = pairs.map(
      ([winner, loser]) =>
        -logSigmoid(rewards[winner] - rewards[loser] - margin) + centering * (rewards[winner] + rewards[loser]) ** 2,
    );
    return sum(terms) / pairs.length;
  });
  return sum(losses) / samples.length;
}

function logSigmoid(x: number): number {
  return x < 0 ? x - Math.log1p(Math.exp(x)) : -Math.log1p(Math.exp(-x));
}

/** The gradient of `f` at `x` by central differences, accurate to about 1e-9 if f and its derivatives are around 1. */
export function gradient(f: (x: number[]) => number, x: readonly number[]): number[] {
  const h = 1e-5;
  return x.map((_, i) => {
    const at = (shift: number) => f(x.map((value, j) => (j === i ? value + shift : value)));
    return (at(h) - at(-h)) / (2 * h);
  });
}

export interface AdamWSettings {
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  maxNorm: number;
}

/** One parameter of AdamW with its moments. */
export interface Parameter {
  values: number[];
  decays: boolean;
  m: number[];
  v: number[];
}

/** Step `t`, counted from 1, of AdamW on the clipped gradients. Returns their norm before clipping. */
export function adamw(
  parameters: readonly Parameter[],
  gradients: readonly (readonly number[])[],
  rate: number,
  t: number,
  {beta1, beta2, epsilon, weightDecay, maxNorm}: AdamWSettings,
): number {
  const norm = Math.sqrt(sum(gradients.flat().map((g) => g * g)));
  const shrink = Math.min(1, maxNorm / (norm + 1e-6));
  parameters.forEach(({values, decays, m, v}, p) => {
    values.forEach((value, i) => {
      const g = shrink * gradients[p][i];
      m[i] = beta1 * m[i] + (1 - beta1) * g;
      v[i] = beta2 * v[i] + (1 - beta2) * g * g;
      const decayed = decays ? value * (1 - rate * weightDecay) : value;
      const deviation = Math.sqrt(v[i] / (1 - beta2 ** t));
      values[i] = decayed - (rate * (m[i] / (1 - beta1 ** t))) / (deviation + epsilon);
    });
  });
  return norm;
}

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
