/** @file The data types of the pipeline: messages, samples as tokens, packed rows. */

/** Label of a position to ignore: prompts, the last token of a document, padding (Hugging Face's usual -100). */
export const IGNORED = -100;

/**
 * One turn of a conversation. `role` is 'system', 'user', 'assistant', or another role of the model's chat template.
 */
export interface Message {
  role: string;
  content: string;
  /**
   * Further fields that chat templates read: `tool_calls`, `tool_call_id`, `name`; and `content` where it is null,
   * which some templates tell from an empty text.
   */
  extra?: Readonly<Record<string, unknown>>;
}

/** Whether the fields of a message have calls of tools. */
export function callsTools(extra: Message['extra']): boolean {
  return Array.isArray(extra?.tool_calls) && extra.tool_calls.length > 0;
}

/**
 * One training sample as tokens: a document (SFT), or a question with its answers (DPO, RM), where each answer sees the
 * question and itself. The three arrays have the same length.
 */
export interface Sample {
  /** Index of the record in its file, from 0. */
  id: number;
  tokens: Int32Array;
  /** Position of each token in its text. All answers of a question start at the same position. */
  positions: Int32Array;
  /** The token to predict at each position, or `IGNORED`. */
  labels: Int32Array;
  /**
   * Lengths for `masks.sharedQuestion`: `[length]` of a document, `[question, answer, answer, ...]` of a comparison.
   * With a question of 0 tokens the answers are separate documents.
   */
  parts: number[];
  /** Rows [start, end) of each answer, best first; empty for SFT. */
  answers: {start: number; end: number}[];
}

/**
 * Removes a token from the labels of a sample, so that it is read, not learned.
 *
 * @returns whether the sample has the token at all, and whether it still has a label.
 */
export function unlearn(sample: Sample, token: number): {found: boolean; teaches: boolean} {
  const found = sample.tokens.includes(token) || sample.labels.includes(token);
  sample.labels = sample.labels.map((label) => (label === token ? IGNORED : label));
  return {found, teaches: sample.labels.some((label) => label !== IGNORED)};
}

/** Samples that share a row of tokens, in order. The rest of the row is padding. */
export interface Row {
  samples: Sample[];
}

/** Tokens of a row without its padding. */
export function usedTokens(row: Row): number {
  return row.samples.reduce((sum, {tokens}) => sum + tokens.length, 0);
}
