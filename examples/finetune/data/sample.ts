/** @file What the data pipeline hands from one step to the next: messages, samples as tokens, packed rows. */

/** Label of a position that teaches nothing: prompts, the last token of a document, padding (the usual -100 of Hugging Face). */
export const IGNORED = -100;

/** One turn of a conversation; `role` is 'system', 'user' or 'assistant', or what the model's chat template knows besides. */
export interface Message {
  role: string;
  content: string;
}

/**
 * One training sample as tokens: a document (SFT), or a question with its answers (DPO, RM), each of which sees the question and
 * itself. The three arrays are equally long.
 */
export interface Sample {
  /** Index of the record in its file, from 0. */
  id: number;
  tokens: Int32Array;
  /** Position of each token in the text that it belongs to: answers of one question start at the same position. */
  positions: Int32Array;
  /** The token to be predicted at each position, or `IGNORED`. */
  labels: Int32Array;
  /**
   * Lengths for `masks.sharedQuestion`: `[length]` of a document, `[question, answer, answer, ...]` of a comparison. A question of 0
   * tokens makes its answers documents of their own.
   */
  parts: number[];
  /** Rows [start, end) of each answer, best first; empty for SFT. */
  answers: {start: number; end: number}[];
}

/**
 * Takes a token out of what a sample teaches: it is read, not learned.
 *
 * @returns whether the sample has it at all, and whether it still teaches something.
 */
export function unlearn(sample: Sample, token: number): {found: boolean; teaches: boolean} {
  const found = sample.tokens.includes(token) || sample.labels.includes(token);
  sample.labels = sample.labels.map((label) => (label === token ? IGNORED : label));
  return {found, teaches: sample.labels.some((label) => label !== IGNORED)};
}

/** Samples that share a row of tokens, in order; what they leave of the row is padding. */
export interface Row {
  samples: Sample[];
}

/** Tokens of a row without its padding. */
export function usedTokens(row: Row): number {
  return row.samples.reduce((sum, {tokens}) => sum + tokens.length, 0);
}
