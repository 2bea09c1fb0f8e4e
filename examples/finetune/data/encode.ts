/** @file Turns conversations and comparisons into samples: their labels, their layout, and how to shorten long ones. */
import {
  type PromptAndAnswers,
  type Turns,
  encodeAnswers,
  encodeTurns,
  isAnswer,
  splitTexts,
  writesToolCalls,
} from './answers.js';
import type {Comparison, TextPair} from './records.js';
import {IGNORED, type Message, type Sample} from './sample.js';
import type {ChatTokenizer} from './tokenizer.js';

export interface EncodeOptions {
  /** The longest sample, in tokens. */
  maxTokens: number;
  /**
   * What to do with a longer sample. 'cut' shortens it, much as PaddleNLP does. It first drops the oldest turns. Then
   * the prompt keeps its last tokens (as many as the answers leave, and at least half of `maxTokens`). Then answers
   * lose their ends, in proportion to their lengths.
   */
  tooLong: 'cut' | 'drop';
}

export interface ComparisonOptions extends EncodeOptions {
  objective: 'dpo' | 'rm';
  /** 'shared': all answers see one prompt. 'separate': each answer has its own copy of the prompt. */
  layout: 'shared' | 'separate';
}

/** A record as a sample, or the reason why it gives none. */
export type Encoding =
  | {sample: Sample; cut: boolean; unlabelledAnswers: number}
  | {dropped: 'too long' | 'no answer' | 'tool calls not written'};

/**
 * A conversation as a document for SFT. The labels are every answer of the assistant with its end token, and nothing
 * else. What follows the last answer is left out. So is the last end token itself, because it predicts nothing.
 *
 * `unlabelledAnswers` of the result counts earlier answers that are only read. The chat template renders them
 * differently once the conversation goes on (some templates drop earlier reasoning), so the model should not learn to
 * write them.
 *
 * @param id Index of the record.
 * @throws Error if the chat template refuses the conversation, or if answers cannot be found in the rendered text.
 */
export function encodeConversation(
  id: number,
  messages: readonly Message[],
  tokenizer: ChatTokenizer,
  {maxTokens, tooLong}: EncodeOptions,
): Encoding {
  const until = messages.map(isAnswer).lastIndexOf(true) + 1;
  if (until === 0) return {dropped: 'no answer'};
  const turns = messages.slice(0, until);
  if (!writesToolCalls(turns, tokenizer)) return {dropped: 'tool calls not written'};
  const encode = (some: readonly Message[]): Turns => encodeTurns(some, tokenizer);
  const fits = ({tokens}: Turns): boolean => tokens.length - 1 <= maxTokens;
  const whole = encode(turns);
  if (fits(whole)) return toDocument(id, whole, false);
  if (tooLong === 'drop') return {dropped: 'too long'};
  const shorter = withoutOldestTurns(turns, whole, encode, fits);
  const cut = fits(shorter) ? shorter : cutTurns(shorter, maxTokens);
  return cut === null ? {dropped: 'too long'} : toDocument(id, cut, true);
}

/**
 * A plain text as a document for SFT: every token is a label, and the end token. A longer text loses its end.
 *
 * @param id Index of the record.
 */
export function encodeText(
  id: number,
  text: string,
  tokenizer: ChatTokenizer,
  {maxTokens, tooLong}: EncodeOptions,
): Encoding {
  const tokens = text.trim() === '' ? [] : tokenizer.encodeWhole(text);
  if (tokens.length < 2) return {dropped: 'no answer'};
  const cut = tokens.length - 1 > maxTokens;
  if (cut && tooLong === 'drop') return {dropped: 'too long'};
  const kept = tokens.slice(0, maxTokens + 1);
  return toDocument(id, {tokens: kept, answers: [{start: 0, end: kept.length}], unlabelledAnswers: 0}, cut);
}

/**
 * A prompt with its answers. DPO has PaddleNLP's layout. It repeats the last token of the prompt before each answer, so
 * that the first token of each answer is predicted inside its own segment. With P = prompt length - 1 and answers c and
 * r of n and m tokens, including end tokens:
 *
 *     tokens    prompt[0 .. P-1] | prompt[P], c0 .. c(n-2) | prompt[P], r0 .. r(m-2)
 *     positions 0 .. P-1         | P .. P+n-1              | P .. P+m-1
 *     labels    ignored          | c0 .. c(n-1)            | r0 .. r(m-1)
 *
 * RM has no labels: `prompt | c0 .. c(n-1) | r0 .. r(m-1)`, each answer scored at its last token.
 *
 * The last label of a shortened answer is the token that follows, not the end token as in PaddleNLP. The model should
 * not learn to stop in the middle.
 *
 * @param id Index of the record.
 * @throws Error if the chat template refuses the prompt, or if answers cannot be found in the rendered text.
 */
export function encodeComparison(
  id: number,
  {prompt, answers}: Pick<Comparison, 'prompt' | 'answers'>,
  tokenizer: ChatTokenizer,
  options: ComparisonOptions,
): Encoding {
  if (answers.length === 0 || answers.some((answer) => answer.trim() === '')) return {dropped: 'no answer'};
  if (!writesToolCalls(prompt, tokenizer)) return {dropped: 'tool calls not written'};
  const encode = (turns: readonly Message[]): Parts =>
    partsOf(encodeAnswers(turns, answers, tokenizer), options.objective);
  return fit(id, encode(prompt), options, (whole, fits) => withoutOldestTurns(prompt, whole, encode, fits));
}

/**
 * Two plain texts, the better one first, in the same layout. Their common start is the prompt.
 *
 * @param id Index of the record.
 * @throws Error for two equal texts.
 */
export function encodeTextPair(
  id: number,
  {texts}: Pick<TextPair, 'texts'>,
  tokenizer: ChatTokenizer,
  options: ComparisonOptions,
): Encoding {
  if (texts.some((text) => text.trim() === '')) return {dropped: 'no answer'};
  return fit(id, partsOf(splitTexts(texts, tokenizer), options.objective), options, (whole) => whole);
}

/** A comparison as a sample. One that is too long is first given to `shorten`, then cut. */
function fit(
  id: number,
  whole: Parts,
  {maxTokens, tooLong, layout}: ComparisonOptions,
  shorten: (whole: Parts, fits: (parts: Parts) => boolean) => Parts,
): Encoding {
  const copies = layout === 'shared' ? 1 : whole.answers.length;
  const fits = (parts: Parts): boolean => tokensOf(parts, copies) <= maxTokens;
  const toSample = (parts: Parts, cut: boolean) => ({sample: layOut(id, parts, layout), cut, unlabelledAnswers: 0});
  if (fits(whole)) return toSample(whole, false);
  if (tooLong === 'drop') return {dropped: 'too long'};
  const shorter = shorten(whole, fits);
  const cut = fits(shorter) ? shorter : cutParts(shorter, copies, maxTokens);
  return cut === null ? {dropped: 'too long'} : toSample(cut, true);
}

/** The rows of a comparison: the tokens of the prompt, and each answer with one label per row. */
interface Parts {
  prompt: number[];
  answers: {tokens: number[]; labels: number[]}[];
}

function partsOf(encoded: PromptAndAnswers, objective: 'dpo' | 'rm'): Parts {
  return objective === 'dpo' ? toPredict(encoded) : toScore(encoded);
}

function toPredict({prompt, answers}: PromptAndAnswers): Parts {
  return {
    prompt: prompt.slice(0, -1),
    answers: answers.map((answer) => ({tokens: [prompt.at(-1)!, ...answer.slice(0, -1)], labels: answer})),
  };
}

function toScore({prompt, answers}: PromptAndAnswers): Parts {
  return {prompt, answers: answers.map((answer) => ({tokens: answer, labels: answer.map(() => IGNORED)}))};
}

function tokensOf({prompt, answers}: Parts, copies: number): number {
  return answers.reduce((sum, {tokens}) => sum + tokens.length, copies * prompt.length);
}

function toDocument(id: number, {tokens, answers, unlabelledAnswers}: Turns, cut: boolean): Encoding {
  const inputs = Int32Array.from(tokens.slice(0, -1));
  const labels = new Int32Array(inputs.length).fill(IGNORED);
  for (const {start, end} of answers) {
    for (let i = Math.max(start, 1); i < end; i++) labels[i - 1] = tokens[i];
  }
  const positions = inputs.map((_, i) => i);
  const sample = {id, tokens: inputs, positions, labels, parts: [inputs.length], answers: []};
  return {sample, cut, unlabelledAnswers};
}

function layOut(id: number, {prompt, answers}: Parts, layout: 'shared' | 'separate'): Sample {
  const question = {tokens: prompt, labels: prompt.map(() => IGNORED), position: 0, isAnswer: false};
  const segments = answers.flatMap((answer, i) => {
    const segment = {...answer, position: prompt.length, isAnswer: true};
    return layout === 'separate' || i === 0 ? [question, segment] : [segment];
  });
  const ranges: Sample['answers'] = [];
  let length = 0;
  for (const {tokens, isAnswer} of segments) {
    if (isAnswer) ranges.push({start: length, end: length + tokens.length});
    length += tokens.length;
  }
  const lengths = answers.map(({tokens}) => tokens.length);
  return {
    id,
    tokens: Int32Array.from(segments.flatMap(({tokens}) => tokens)),
    positions: Int32Array.from(segments.flatMap(({tokens, position}) => tokens.map((_, i) => position + i))),
    labels: Int32Array.from(segments.flatMap(({labels}) => labels)),
    parts: layout === 'shared' ? [prompt.length, ...lengths] : [0, ...lengths.map((each) => prompt.length + each)],
    answers: ranges,
  };
}

/** Drops as few of the oldest turns as make the rest fit, or all but the last turn. Keeps a system message. */
function withoutOldestTurns<T>(
  messages: readonly Message[],
  whole: T,
  encode: (messages: readonly Message[]) => T,
  fits: (encoded: T) => boolean,
): T {
  const system = messages.findIndex(({role}) => role !== 'system');
  const starts = messages.map(({role}, i) => (role === 'user' && i > system ? i : -1)).filter((i) => i > 0);
  let found = whole;
  for (let [low, high] = [0, starts.length - 1]; low <= high;) {
    const middle = (low + high) >> 1;
    const shorter = encode([...messages.slice(0, system), ...messages.slice(starts[middle])]);
    if (fits(shorter)) high = middle - 1;
    else low = middle + 1;
    if (fits(shorter) || !fits(found)) found = shorter;
  }
  return found;
}

function cutTurns({tokens, answers, unlabelledAnswers}: Turns, maxTokens: number): Turns | null {
  // The row of the token before the last answer predicts the answer's first token, so it belongs to the answer.
  const prompt = answers.at(-1)!.start - 1;
  const lengths = shareOut(prompt, [tokens.length - 1 - prompt], 1, maxTokens);
  if (lengths === null) return null;
  const from = prompt - lengths.prompt;
  const to = prompt + lengths.answers[0] + 1;
  const kept = answers.map(({start, end}) => ({start: Math.max(start - from, 0), end: Math.min(end, to) - from}));
  return {tokens: tokens.slice(from, to), answers: kept.filter(({start, end}) => start < end), unlabelledAnswers};
}

function cutParts({prompt, answers}: Parts, copies: number, maxTokens: number): Parts | null {
  const lengths = answers.map(({tokens}) => tokens.length);
  const kept = shareOut(prompt.length, lengths, copies, maxTokens);
  if (kept === null) return null;
  return {
    prompt: prompt.slice(prompt.length - kept.prompt),
    answers: answers.map(({tokens, labels}, i) => ({
      tokens: tokens.slice(0, kept.answers[i]),
      labels: labels.slice(0, kept.answers[i]),
    })),
  };
}

/** How many of `maxTokens` a prompt, held `copies` times, and its answers keep. Null if an answer would keep none. */
function shareOut(
  prompt: number,
  answers: readonly number[],
  copies: number,
  maxTokens: number,
): {prompt: number; answers: number[]} | null {
  const total = answers.reduce((sum, length) => sum + length, 0);
  const left = Math.max(maxTokens - total, Math.floor(maxTokens / 2));
  const keptPrompt = Math.min(prompt, Math.floor(left / copies));
  const room = Math.min(total, maxTokens - copies * keptPrompt);
  let before = 0;
  const kept = answers.map((length) => {
    const start = Math.floor((before * room) / total);
    before += length;
    return Math.floor((before * room) / total) - start;
  });
  return kept.every((length) => length > 0) ? {prompt: keptPrompt, answers: kept} : null;
}
