/** @file Chooses the next token from logits, on the host, as transformers' logits warpers do. */

export interface SamplingOptions {
  /** Divides the logits. 0 always takes the most likely token. */
  temperature: number;
  /**
   * Keeps the fewest most likely tokens whose total probability is at least this (nucleus sampling, arXiv 1904.09751).
   * 1 keeps all.
   */
  topP: number;
  /** Keeps this many most likely tokens, and those as likely as the last of them. Default: all. */
  topK?: number;
}

/** @throws Error if a number is out of range. */
export function checkSampling({temperature, topP, topK}: SamplingOptions): void {
  if (!(temperature >= 0 && temperature < Infinity)) {
    throw new Error(`The temperature must be 0 or more, got ${temperature}.`);
  }
  if (!(topP > 0 && topP <= 1)) {
    throw new Error(`Top-p must be over 0 and at most 1, got ${topP}.`);
  }
  if (topK !== undefined && !(Number.isSafeInteger(topK) && topK > 0)) {
    throw new Error(`Top-k must be a positive integer, got ${topK}.`);
  }
}

/**
 * Chooses the next token.
 *
 * @param logits One per token of the vocabulary.
 * @param random Uniform in [0, 1).
 */
export function chooseToken(logits: Float32Array, options: SamplingOptions, random: number): number {
  if (options.temperature === 0) return mostLikely(logits);
  return draw(warpedProbabilities(logits, options), random);
}

/** The first token with the largest logit. */
function mostLikely(logits: Float32Array): number {
  return logits.reduce((best, logit, token) => (logit > logits[best] ? token : best), 0);
}

/**
 * Probabilities to draw from, at a temperature above 0. They sum to 1 and are 0 for tokens that top-k or top-p drops.
 */
export function warpedProbabilities(logits: Float32Array, {temperature, topP, topK}: SamplingOptions): Float64Array {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  // Subtract the largest first. However low the temperature, the others then go to -Infinity and none to Infinity.
  const scaled = Float64Array.from(logits, (logit) => (logit - largest) / temperature);
  if (topK !== undefined && topK < scaled.length) {
    const limit = Float64Array.from(scaled).sort()[scaled.length - topK];
    for (let i = 0; i < scaled.length; i++) {
      if (scaled[i] < limit) scaled[i] = -Infinity;
    }
  }
  const probabilities = normalized(scaled.map(Math.exp));
  return topP < 1 ? nucleus(probabilities, topP) : probabilities;
}

function normalized(weights: Float64Array): Float64Array {
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/**
 * Drops tokens like transformers' TopPLogitsWarper: from the least likely on, while their sum stays within 1 - topP.
 * The most likely token stays. So do all tokens as likely as the least likely one kept.
 */
function nucleus(probabilities: Float64Array, topP: number): Float64Array {
  // Sort values, not tokens: a sort with a comparison function takes as long as a small model's layers.
  const ascending = Float64Array.from(probabilities).sort();
  let first = 0;
  for (let sum = ascending[0]; sum <= 1 - topP && first < ascending.length - 1; sum += ascending[first]) first++;
  return normalized(probabilities.map((p) => (p < ascending[first] ? 0 : p)));
}

/**
 * The token at which the running sum of probabilities exceeds `random`.
 *
 * @param random Uniform in [0, 1).
 */
export function draw(probabilities: Float64Array, random: number): number {
  let sum = 0;
  let last = 0;
  for (let token = 0; token < probabilities.length; token++) {
    if (probabilities[token] === 0) continue;
    sum += probabilities[token];
    if (sum > random) return token;
    last = token;
  }
  // Rounding can leave the sum just under 1.
  return last;
}
