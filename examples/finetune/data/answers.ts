/**
 * @file Finds the assistant's answers in a conversation as tokens. Chat templates do not mark them. So the conversation
 * is rendered up to each answer, with the generation prompt, and once more with the answer; the difference is the
 * answer.
 */
import type {Message} from './sample.js';
import type {ChatTokenizer} from './tokenizer.js';

/** A conversation as tokens. It ends with the end token of its last answer. */
export interface Turns {
  tokens: number[];
  /** Tokens [start, end) of each answer, including its end token. */
  answers: {start: number; end: number}[];
  /** Number of answers that the template renders differently once the conversation goes on. They are only read. */
  unlabelledAnswers: number;
}

/** Whether a message is an answer of the model with text. */
export function isAnswer({role, content}: Message): boolean {
  return role === 'assistant' && content.trim() !== '';
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
  const before = tokenizer.chat(prompt, {addGenerationPrompt: true});
  const tokens = tokenizer.encode(before);
  if (tokens.length === 0) throw new Error(`The chat template of ${tokenizer.origin} writes nothing for a prompt.`);
  return {
    prompt: tokens,
    answers: answers.map((content) => {
      const whole = tokenizer.chat([...prompt, {role: 'assistant', content}]);
      if (!whole.startsWith(before) || whole.length === before.length) throw new Error(answerNotFound(tokenizer));
      return toEndToken(encodeAfter(before, tokens, whole.slice(before.length), tokenizer), tokenizer, true);
    }),
  };
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
  const whole = tokenizer.chat(messages);
  const pieces: Piece[] = [];
  let at = 0;
  let unlabelledAnswers = 0;
  messages.forEach((message, i) => {
    if (!isAnswer(message)) return;
    const found = findAnswer(whole, messages, i, tokenizer);
    if (found === null) {
      unlabelledAnswers++;
      return;
    }
    const {start, end} = found;
    pieces.push({text: whole.slice(at, start), learned: false}, {text: whole.slice(start, end), learned: true});
    at = end;
  });
  if (at !== whole.length) throw new Error(answerNotFound(tokenizer));
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
  const before = tokenizer.chat(messages.slice(0, i), {addGenerationPrompt: true});
  const upTo = i + 1 === messages.length ? whole : tokenizer.chat(messages.slice(0, i + 1));
  const found = whole.startsWith(upTo) && upTo.startsWith(before) && upTo.length > before.length;
  return found ? {start: before.length, end: upTo.length} : null;
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

function answerNotFound({origin}: ChatTokenizer): string {
  return `The chat template of ${origin} does not write an answer right behind its prompt: answers cannot be found in it.`;
}
