/** @file Instruction texts and plain texts as documents of tokens. */
import type {Document} from './packing.js';
import {Tokenizer} from './tokenizer.js';

/** A text to learn, after a prompt that is given (and may be empty). */
export interface Text {
  prompt: string;
  response: string;
}

export interface Documents {
  documents: Document[];
  /** Left out: the prompt takes more than half of the model's context. */
  longPrompts: number;
  /** Left out: a character that the tokenizer does not know. */
  unknownCharacters: number;
}

/** Reads Alpaca's JSON: a list of `{instruction, input, output}`, or the same one a line. Throws on anything else. */
export function readAlpaca(json: string, file: string): Text[] {
  const wrong = (why: string): Error =>
    new Error(`${file} should hold {"instruction", "input", "output"} objects, a JSON list or one a line: ${why}.`);
  let items: unknown;
  try {
    const text = json.trim();
    items = text.startsWith('[') ? JSON.parse(text) : text.split('\n').map((line) => JSON.parse(line) as unknown);
  } catch (error) {
    throw wrong((error as Error).message);
  }
  return (items as Record<string, unknown>[]).map(({instruction, input, output}, i) => {
    if (typeof instruction !== 'string' || typeof output !== 'string') {
      throw wrong(`item ${i} lacks instruction or output`);
    }
    return {
      prompt: typeof input === 'string' && input !== '' ? `${instruction}\n${input}` : instruction,
      response: output,
    };
  });
}

/** The paragraphs of a plain or Markdown text, each a text without prompt; short neighbours together. */
export function readParagraphs(text: string, tokenizer: Tokenizer, maxLength: number): Text[] {
  const texts: Text[] = [];
  let current = '';
  for (const line of text.split(/(?<=\n)/)) {
    if (current !== '' && tokenizer.encode(current + line).length >= maxLength) {
      texts.push({prompt: '', response: current.trimEnd()});
      current = '';
    }
    current += line;
  }
  texts.push({prompt: '', response: current.trimEnd()});
  return texts.filter(({response}) => response !== '');
}

/** Tokens of a prompt: it ends with a line break, after which the response starts. */
export function encodePrompt(prompt: string, tokenizer: Tokenizer): number[] {
  return prompt === '' ? [] : tokenizer.encode(`${prompt}\n`);
}

/**
 * Texts as documents of at most `maxLength` tokens. A response that does not fit is cut, and only a whole one ends with `<eos>`:
 * the model should not learn to stop in the middle.
 */
export function toDocuments(texts: readonly Text[], tokenizer: Tokenizer, maxLength: number): Documents {
  const result: Documents = {documents: [], longPrompts: 0, unknownCharacters: 0};
  for (const {prompt, response} of texts) {
    const given = encodePrompt(prompt, tokenizer);
    const tokens = [...given, ...tokenizer.encode(response), Tokenizer.EOS].slice(0, maxLength);
    if (given.length > maxLength / 2) {
      result.longPrompts++;
    } else if (tokens.includes(Tokenizer.UNKNOWN)) {
      result.unknownCharacters++;
    } else if (tokens.length >= 2) {
      result.documents.push({tokens, promptLength: given.length});
    }
  }
  return result;
}
