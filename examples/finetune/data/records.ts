/** @file Reads records in the usual shapes of data sets as conversations and comparisons. */
import {type Message, callsTools} from './sample.js';

/** A conversation whose answers are to be learned (SFT). */
export interface Conversation {
  kind: 'conversation';
  messages: Message[];
}

/** Answers to one prompt, best first (DPO, RM). */
export interface Comparison {
  kind: 'comparison';
  prompt: Message[];
  answers: string[];
  /** Number of answers left out because another one has the same rank or score, so neither is known to be better. */
  tied: number;
}

/** A plain text, all of which is to be learned (SFT as language modelling). */
export interface PlainText {
  kind: 'text';
  text: string;
}

/** Two plain texts, the better one first, whose common start is the prompt (DPO, RM). */
export interface TextPair {
  kind: 'texts';
  texts: [chosen: string, rejected: string];
}

export type DataRecord = Conversation | Comparison | PlainText | TextPair;

type Fields = Record<string, unknown>;

const SHAPES =
  'Known are {instruction, input, output}, {messages} or {conversations}, {prompt, completion}, {text}, ' +
  '{prompt, chosen, rejected}, {chosen, rejected}, and {prompt, answers} best first or with ranks or scores';

/**
 * Recognises a record by its fields:
 *
 * | shape | fields |
 * |-------|--------|
 * | Alpaca | `instruction`, `input`?, `output`, `system`?, `history`? as pairs |
 * | messages, ShareGPT | `messages` or `conversations` of `{role, content}` or `{from, value}`, `system`? |
 * | TRL's prompt and completion | `prompt`, `completion`, each a text or messages |
 * | plain text | `text` |
 * | preference | `chosen`, `rejected`, each a text, a message or messages; with `prompt`, or a prompt as above |
 * | plain texts | `chosen`, `rejected`, two texts without a prompt beside them, which is their common start |
 * | ranked | `answers` or `responses`, best first, or with `ranks` (1 best) or `scores` beside or in them; a prompt |
 *
 * @throws Error that names the wrong field.
 */
export function parseRecord(value: unknown): DataRecord {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`a record must be a JSON object, got ${describe(value)}. ${SHAPES}`);
  }
  const fields = value as Fields;
  if (has(fields, 'chosen') || has(fields, 'rejected')) return preference(fields);
  const list = ['answers', 'responses'].find((name) => has(fields, name));
  if (list !== undefined) return ranked(fields, list);
  if (has(fields, 'completion')) return completion(fields);
  if (has(fields, 'output')) return alpaca(fields);
  const messages = conversationField(fields);
  if (messages === null && has(fields, 'text')) return {kind: 'text', text: text(fields.text, 'text')};
  if (messages === null) {
    throw new Error(`a record of an unknown shape, with the fields ${Object.keys(fields).join(', ')}. ${SHAPES}`);
  }
  return {kind: 'conversation', messages};
}

function alpaca(fields: Fields): Conversation {
  const answer = {role: 'assistant', content: text(fields.output, 'output')};
  return {kind: 'conversation', messages: [...instruction(fields), answer]};
}

function completion(fields: Fields): Conversation {
  const {prompt, answer} = answerAfter(promptOf(fields), fields.completion, 'completion');
  return {kind: 'conversation', messages: [...prompt, {role: 'assistant', content: answer}]};
}

function preference(fields: Fields): Comparison | TextPair {
  const {chosen, rejected} = fields;
  const hasTexts = typeof chosen === 'string' && typeof rejected === 'string';
  if (hasTexts && !has(fields, 'system') && promptOf(fields).length === 0) {
    return {kind: 'texts', texts: [chosen, rejected]};
  }
  return comparison(fields, [
    [chosen, 'chosen'],
    [rejected, 'rejected'],
  ]);
}

/** The prompt, and each answer to it. */
function comparison(fields: Fields, answers: [value: unknown, name: string][]): Comparison {
  const given = promptOf(fields);
  const read = answers.map(([value, name]) => answerAfter(given, value, name));
  const {prompt} = read[0];
  read.forEach((other, i) => {
    if (sameMessages(prompt, other.prompt)) return;
    throw new Error(`${answers[i][1]} must follow the same messages as ${answers[0][1]}, but they differ`);
  });
  if (prompt.length === 0) throw new Error(`a comparison needs a prompt. ${SHAPES}`);
  if (prompt.at(-1)!.role === 'assistant') throw new Error('the prompt ends with an answer: it must end before one');
  return {kind: 'comparison', prompt, answers: read.map(({answer}) => answer), tied: 0};
}

function ranked(fields: Fields, list: string): Comparison {
  const entries = fields[list];
  if (!Array.isArray(entries) || entries.length < 2) {
    throw new Error(`${list} must be a list of two or more answers, got ${describe(entries)}`);
  }
  const all = comparison(
    fields,
    entries.map((entry, i) => [answerOfEntry(entry), `${list}[${i}]`]),
  );
  const worth = worthOf(fields, entries, list);
  if (worth === null) return all;
  const order = all.answers.map((_, i) => i).sort((a, b) => worth[b] - worth[a]);
  const kept = order.filter((index, i) => i === 0 || worth[index] < worth[order[i - 1]]);
  return {...all, answers: kept.map((i) => all.answers[i]), tied: order.length - kept.length};
}

/** An entry of a ranked list may be an object with a rank or score, its text under one of these names. */
function answerOfEntry(entry: unknown): unknown {
  if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) return entry;
  const fields = entry as Fields;
  const name = ['text', 'answer', 'response'].find((candidate) => has(fields, candidate));
  return name === undefined ? entry : fields[name];
}

/** One number per answer, larger for better answers. Null if the answers are listed best first. */
function worthOf(fields: Fields, entries: unknown[], list: string): number[] | null {
  for (const [name, sign] of [
    ['rank', -1],
    ['score', 1],
  ] as const) {
    const beside = [`${name}s`, name].find((field) => has(fields, field));
    const inside = entries.some((entry) => typeof entry === 'object' && entry !== null && name in entry);
    if (beside === undefined && !inside) continue;
    const values = inside ? entries.map((entry) => (entry as Fields)[name]) : fields[beside!];
    const what = inside ? `${name} of every one of ${list}` : beside!;
    if (!Array.isArray(values) || values.length !== entries.length || !values.every(Number.isFinite)) {
      throw new Error(
        `${what} must be numbers, one for each of the ${entries.length} answers, got ${describe(values)}`,
      );
    }
    return values.map((number) => sign * (number as number));
  }
  return null;
}

/** The messages before an answer. Empty if the answers themselves contain them. */
function promptOf(fields: Fields): Message[] {
  if (typeof fields.prompt === 'string') return withSystem(fields, [{role: 'user', content: fields.prompt}]);
  if (has(fields, 'prompt')) return withSystem(fields, messageList(fields.prompt, 'prompt'));
  const messages = conversationField(fields);
  if (messages !== null) return messages;
  if (typeof fields.question === 'string') return withSystem(fields, [{role: 'user', content: fields.question}]);
  return has(fields, 'instruction') ? instruction(fields) : [];
}

/**
 * One answer: a text, a message, or messages that end with the answer. Those before it continue or repeat the prompt.
 */
function answerAfter(prompt: Message[], value: unknown, name: string): {prompt: Message[]; answer: string} {
  if (typeof value === 'string') return {prompt, answer: value};
  const messages = Array.isArray(value) ? messageList(value, name) : [message(value, name)];
  const last = messages.at(-1);
  if (last?.role !== 'assistant') {
    throw new Error(`${name} must end with a message of the assistant, got ${last?.role ?? 'no message'}`);
  }
  const before = messages.slice(0, -1);
  if (callsTools(last.extra)) throw new Error(`${name} calls tools: only texts can be compared or completed`);
  const repeats = prompt.every((asked) => before.some((other) => sameMessages([asked], [other])));
  return {prompt: repeats ? before : [...prompt, ...before], answer: last.content};
}

/** Alpaca's prompt: the instruction, then the input on its own line. */
function instruction(fields: Fields): Message[] {
  const parts = [text(fields.instruction, 'instruction'), optionalText(fields, 'input')];
  const history = (fields.history ?? []) as unknown;
  if (!Array.isArray(history)) throw new Error(`history must be a list of pairs, got ${describe(history)}`);
  const earlier = history.flatMap((pair: unknown, i) => {
    const [question, answer] = Array.isArray(pair) && pair.length === 2 ? (pair as unknown[]) : [];
    return [
      {role: 'user', content: text(question, `history[${i}][0]`)},
      {role: 'assistant', content: text(answer, `history[${i}][1]`)},
    ];
  });
  const content = parts.filter((part) => part !== '').join('\n');
  return withSystem(fields, [...earlier, {role: 'user', content}]);
}

function conversationField(fields: Fields): Message[] | null {
  const name = ['messages', 'conversations', 'conversation'].find((candidate) => has(fields, candidate));
  return name === undefined ? null : withSystem(fields, messageList(fields[name], name));
}

function withSystem(fields: Fields, messages: Message[]): Message[] {
  const system = optionalText(fields, 'system');
  return system === '' ? messages : [{role: 'system', content: system}, ...messages];
}

function messageList(value: unknown, name: string): Message[] {
  if (!Array.isArray(value) || value.length === 0) {
    throw new Error(`${name} must be a list of messages, got ${describe(value)}`);
  }
  return value.map((each, i) => message(each, `${name}[${i}]`));
}

/** The roles, under the names of chat templates and of ShareGPT. */
const ROLES: ReadonlyMap<string, string> = new Map([
  ...['system', 'developer', 'user', 'assistant', 'tool'].map((role) => [role, role] as const),
  ['human', 'user'],
  ['gpt', 'assistant'],
  ['chatgpt', 'assistant'],
  ['model', 'assistant'],
  ['function_call', 'assistant'],
  ['observation', 'tool'],
]);

function message(value: unknown, name: string): Message {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`${name} must be {role, content} or {from, value}, got ${describe(value)}`);
  }
  const fields = value as Fields;
  const [who, what] = has(fields, 'from') ? (['from', 'value'] as const) : (['role', 'content'] as const);
  const role = ROLES.get(text(fields[who], `${name}.${who}`));
  if (role === undefined) {
    throw new Error(`${name}.${who} must be one of ${[...ROLES.keys()].join(', ')}, got ${describe(fields[who])}`);
  }
  const extra = extraFields(fields);
  const content = extra?.content === null ? '' : contentText(fields[what], `${name}.${what}`);
  return extra === undefined ? {role, content} : {role, content, extra};
}

/** Fields beside the text that chat templates read. A message that calls tools may have no text. */
function extraFields(fields: Fields): Message['extra'] {
  const names = ['tool_calls', 'tool_call_id', 'name'].filter((name) => has(fields, name));
  if (names.length === 0) return undefined;
  const extra: Fields = Object.fromEntries(names.map((name) => [name, fields[name]]));
  return callsTools(extra) && !has(fields, 'content') && !has(fields, 'value') ? {...extra, content: null} : extra;
}

/** Content is a text or a list of parts. This model family reads only texts. */
function contentText(content: unknown, name: string): string {
  if (!Array.isArray(content)) return text(content, name);
  return content.map((part: Fields | null, i) => text(part?.text, `${name}[${i}].text`)).join('');
}

function text(value: unknown, name: string): string {
  if (typeof value !== 'string') throw new Error(`${name} must be a text, got ${describe(value)}`);
  return value;
}

function optionalText(fields: Fields, name: string): string {
  return has(fields, name) ? text(fields[name], name) : '';
}

function has(fields: Fields, name: string): boolean {
  return fields[name] !== undefined && fields[name] !== null;
}

function sameMessages(a: readonly Message[], b: readonly Message[]): boolean {
  const textOf = ({role, content, extra}: Message): string => JSON.stringify([role, content, extra]);
  return a.length === b.length && a.every((message, i) => textOf(message) === textOf(b[i]));
}

/** A short form of any value, for errors. */
function describe(value: unknown): string {
  const shown = JSON.stringify(value) as string | undefined;
  return shown === undefined ? 'nothing' : shown.length > 60 ? `${shown.slice(0, 60)}…` : shown;
}
