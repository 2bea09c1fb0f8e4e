/**
 * @file Finds the assistant's answers in a conversation as tokens. Chat templates do not mark them. So the conversation
 * is rendered up to each answer, with the generation prompt, and once more with the answer; the difference is the
 * answer. Where the template writes more than that differently, further renderings prove the border or refuse it.
 */
import {type Message, callsTools} from './sample.js';
import type {ChatTokenizer} from './tokenizer.js';

/** A conversation as tokens. It ends with the end token of its last answer. */
export interface Turns {
  tokens: number[];
  /** Tokens [start, end) of each answer, including its end token. */
  answers: {start: number; end: number}[];
  /** Number of answers that the template renders differently once the conversation goes on. They are only read. */
  unlabelledAnswers: number;
}

/** Whether a message is an answer of the model, with a text or calls of tools. */
export function isAnswer({role, content, extra}: Message): boolean {
  return role === 'assistant' && (content.trim() !== '' || callsTools(extra));
}

/** Whether the chat template writes the messages' calls of tools, if there are any. Many write an empty turn. */
export function writesToolCalls(messages: readonly Message[], tokenizer: ChatTokenizer): boolean {
  if (!messages.some(({extra}) => callsTools(extra))) return true;
  // Some templates write calls only where the text is missing, others fail there.
  const withText = messages.map((message) => ({...message, extra: {...message.extra, content: message.content}}));
  const rendered = [messages, withText].map((some) => [
    tryChat(some, tokenizer),
    tryChat(withoutCalls(some), tokenizer),
  ]);
  // Where no rendering works, the reason shows where the messages are encoded.
  if (rendered.every(([withCalls]) => withCalls === null)) return true;
  return rendered.some(([withCalls, without]) => withCalls !== null && withCalls !== without);
}

function withoutCalls(messages: readonly Message[]): Message[] {
  return messages.map((message) => {
    const others = Object.entries(message.extra ?? {}).filter(([name]) => name !== 'tool_calls');
    return {...message, extra: Object.fromEntries(others)};
  });
}

function tryChat(messages: readonly Message[], tokenizer: ChatTokenizer): string | null {
  try {
    return tokenizer.chat(messages);
  } catch {
    return null;
  }
}

/**
 * Tokens of a conversation that ends with an answer. Prompts are encoded as for generation: no token spans the border
 * of a prompt and its answer.
 *
 * @throws Error if the last answer cannot be found in the rendered conversation.
 */
export function encodeTurns(messages: readonly Message[], tokenizer: ChatTokenizer): Turns {
  const {pieces, unlabelledAnswers} = splitAtAnswers(messages, tokenizer);
  const turns: Turns = {tokens: [], answers: [], unlabelledAnswers};
  pieces.forEach(({text, learned}, i) => {
    const before = i === 0 ? '' : pieces[i - 1].text;
    const tokens = encodeAfter(before, tokenizer.encode(before), text, tokenizer);
    const last = i + 1 === pieces.length;
    const answer = learned ? toEndToken(tokens, tokenizer, last) : [];
    const start = turns.tokens.length;
    if (learned) turns.answers.push({start, end: start + answer.length});
    turns.tokens = turns.tokens.concat(last ? answer : tokens);
  });
  return turns;
}

/** A prompt as tokens, and each answer to it with its end token. */
export interface PromptAndAnswers {
  prompt: number[];
  answers: number[][];
}

/**
 * Tokens of a prompt, up to where the model answers, and of several answers to it.
 *
 * @throws Error if an answer cannot be found in the rendered conversation.
 */
export function encodeAnswers(
  prompt: readonly Message[],
  answers: readonly string[],
  tokenizer: ChatTokenizer,
): PromptAndAnswers {
  const {before, texts} = findAnswers(prompt, answers, tokenizer);
  const tokens = tokenizer.encode(before);
  if (tokens.length === 0) throw new Error(`The chat template of ${tokenizer.origin} writes nothing for a prompt.`);
  return {
    prompt: tokens,
    answers: texts.map((text) => toEndToken(encodeAfter(before, tokens, text, tokenizer), tokenizer, true)),
  };
}

/**
 * Two plain texts as a prompt and answers: the tokens that both start with, and what follows in each. Texts that start
 * differently are both read behind the tokenizer's start token.
 *
 * @throws Error for equal texts, and where texts start differently and the tokenizer has no token to start with.
 */
export function splitTexts(texts: readonly [string, string], tokenizer: ChatTokenizer): PromptAndAnswers {
  const [one, other] = texts.map((text) => tokenizer.encodeWhole(text));
  let shared = 0;
  while (shared < Math.min(one.length, other.length) && one[shared] === other[shared]) shared++;
  if (shared === one.length && shared === other.length) throw new Error('chosen and rejected are the same text');
  // Without an end token the shorter of two texts may be the start of the other one. Each answer needs a token.
  shared = Math.min(shared, one.length - 1, other.length - 1);
  if (shared > 0) return {prompt: one.slice(0, shared), answers: [one.slice(shared), other.slice(shared)]};
  const start = tokenizer.bosTokenId ?? tokenizer.eosTokenId;
  if (start !== null) return {prompt: [start], answers: [one, other]};
  throw new Error('chosen and rejected start differently, and the tokenizer has no token to start texts with');
}

/** The text before all answers to a prompt, and that of each answer. */
function findAnswers(
  prompt: readonly Message[],
  answers: readonly string[],
  tokenizer: ChatTokenizer,
): {before: string; texts: string[]} {
  const conversations = answers.map((content) => [...prompt, {role: 'assistant', content}]);
  const wholes = conversations.map((messages) => tokenizer.chat(messages));
  const starts = wholes.map((whole) => startOfAnswer(prompt, whole, tokenizer));
  if (starts.every((start) => start !== null)) {
    // An answer may begin with the end of the generation prompt, and another to the same prompt not.
    const start = Math.min(...starts);
    return {before: wholes[0].slice(0, start), texts: wholes.map((whole) => whole.slice(start))};
  }
  const composed = conversations.map((messages, i) => composeLastTurn(messages, wholes[i], tokenizer));
  return {before: composed[0].before, texts: composed.map(({answer}) => answer)};
}

/** A piece of a rendered conversation: an answer with what the template writes after it, or text between answers. */
interface Piece {
  text: string;
  learned: boolean;
}

/** Splits the rendered conversation at its answers. The last piece is the last answer. */
function splitAtAnswers(
  messages: readonly Message[],
  tokenizer: ChatTokenizer,
): {pieces: Piece[]; unlabelledAnswers: number} {
  if (messages.length < 2) throw new Error('a conversation needs a message before its answer');
  const rendered = tokenizer.chat(messages);
  const lastStart = startOfAnswer(messages.slice(0, -1), rendered, tokenizer);
  const composed = lastStart === null ? composeLastTurn(messages, rendered, tokenizer) : null;
  const whole = composed === null ? rendered : composed.before + composed.answer;
  const last = {start: lastStart ?? composed!.before.length, end: whole.length};
  const pieces: Piece[] = [];
  let at = 0;
  let unlabelledAnswers = 0;
  messages.forEach((message, i) => {
    if (!isAnswer(message)) return;
    const found = i + 1 === messages.length ? last : findAnswer(whole, messages, i, tokenizer);
    if (found === null) {
      unlabelledAnswers++;
      return;
    }
    const {start, end} = found;
    pieces.push({text: whole.slice(at, start), learned: false}, {text: whole.slice(start, end), learned: true});
    at = end;
  });
  return {pieces, unlabelledAnswers};
}

/**
 * Characters [start, end) of message `i` in the rendered conversation. Null if the template renders the conversation up
 * to `i` differently once it goes on.
 */
function findAnswer(
  whole: string,
  messages: readonly Message[],
  i: number,
  tokenizer: ChatTokenizer,
): {start: number; end: number} | null {
  if (i === 0) return null;
  const upTo = tokenizer.chat(messages.slice(0, i + 1));
  if (!whole.startsWith(upTo)) return null;
  const start = startOfAnswer(messages.slice(0, i), upTo, tokenizer);
  return start === null ? null : {start, end: upTo.length};
}

/** Answers that begin differently, and that no template changes. */
const PROBES = ['x', 'y'];

/**
 * Where the answer to a prompt starts in `whole`, the rendered prompt with its answer. Usually that is behind the
 * prompt as it is rendered for generation. Some generation prompts end with what the template does not write before an
 * answer, like the start of reasoning. Then it is where the text starts to depend on the answer. Null if the template
 * renders the prompt itself differently once it has an answer.
 */
function startOfAnswer(prompt: readonly Message[], whole: string, tokenizer: ChatTokenizer): number | null {
  const before = tokenizer.chat(prompt, {addGenerationPrompt: true});
  if (whole.startsWith(before)) return whole.length > before.length ? before.length : null;
  const [one, other] = PROBES.map((content) => tokenizer.chat([...prompt, {role: 'assistant', content}]));
  const shared = commonStart(before, commonStart(one, other));
  const found = shared.startsWith(tokenizer.chat(prompt)) && whole.startsWith(shared);
  return found && whole.length > shared.length ? shared.length : null;
}

/**
 * The last turn of a conversation where the template renders a prompt differently once it has an answer: the prompt as
 * for generation, which is what the model will see, and the answer as the template writes it. Mistral's template writes
 * the system message into the last message, if that is the user's. The answer is found in the last turn alone, where
 * both texts must end alike.
 *
 * @throws Error, with what differs, if they do not.
 */
function composeLastTurn(
  messages: readonly Message[],
  whole: string,
  tokenizer: ChatTokenizer,
): {before: string; answer: string} {
  const prompt = messages.slice(0, -1);
  const before = tokenizer.chat(prompt, {addGenerationPrompt: true});
  const question = prompt.map(({role}) => role).lastIndexOf('user');
  if (question > 0) {
    const turn = tokenizer.chat(messages.slice(question));
    const start = startOfAnswer(prompt.slice(question), turn, tokenizer);
    const answer = turn.slice(start ?? turn.length);
    const content = prompt[question].content.trim();
    const behind = turn.slice(turn.lastIndexOf(content, start ?? 0), start ?? 0);
    if (answer !== '' && content !== '' && behind.startsWith(content) && before.endsWith(behind)) {
      if (whole.endsWith(behind + answer)) return {before, answer};
    }
  }
  throw new Error(answerNotFound(before, whole, tokenizer));
}

function commonStart(a: string, b: string): string {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  return a.slice(0, length);
}

/**
 * Tokens of `text` after `before`, whose tokens are `prefix`. Usually these are the remaining tokens of both texts
 * together, because some tokenizers mark where a text starts. Where a token would span the border, like one for two
 * line breaks, `text` is encoded alone.
 */
function encodeAfter(before: string, prefix: readonly number[], text: string, tokenizer: ChatTokenizer): number[] {
  const both = tokenizer.encode(before + text);
  const continues = prefix.every((id, i) => both[i] === id);
  return continues ? both.slice(prefix.length) : tokenizer.encode(text);
}

/**
 * An answer's tokens up to its end token, without the line break that templates write after it. If the template writes
 * no end token, the end of a text gets the tokenizer's own.
 */
function toEndToken(tokens: number[], tokenizer: ChatTokenizer, endsText: boolean): number[] {
  const mark = tokens.map((id) => tokenizer.isSpecial(id)).lastIndexOf(true);
  if (mark >= 0 && tokenizer.decode(tokens.slice(mark + 1)).trim() === '') return tokens.slice(0, mark + 1);
  const {eosTokenId} = tokenizer;
  return endsText && eosTokenId !== null ? [...tokens, eosTokenId] : tokens;
}

function answerNotFound(before: string, whole: string, {origin}: ChatTokenizer): string {
  const at = commonStart(before, whole).length;
  const excerpt = (text: string): string => JSON.stringify(text.slice(at, at + 40));
  return (
    `The chat template of ${origin} does not write an answer right behind its prompt: answers cannot be found in it. ` +
    `After ${at} equal characters it writes ${excerpt(before)} without the answer, and ${excerpt(whole)} with it.`
  );
}
