/** @file Converts GlassLM's character byte-pair encoding to tokenizer.json, and trains one where there is none. */
import type {TokenizerFiles} from './gguf_tokenizer.js';

export type Merge = readonly [string, string];

/** A tokenizer as glassllm stores it: `vocabulary = specials + alphabet + merged pairs`, in the order of their ids. */
export interface CharacterBpe {
  alphabet: readonly string[];
  merges: readonly Merge[];
}

export const SPECIALS = {padding: 0, unknown: 1, beginning: 2, end: 3} as const;
const SPECIAL_TEXTS = ['<pad>', '<unk>', '<bos>', '<eos>'];

const SPACE = '▁';
/** A newline, a word with the spaces before it, or trailing spaces. Merges never cross these chunks. */
const CHUNK = '\\n|▁*[^▁\\n]+|▁+';

/** A prompt ends with a line break. The answer starts after it. */
const CHAT_TEMPLATE =
  "{% for message in messages %}{{ message['content'] + ('<eos>' if message['role'] == 'assistant' else '\n') }}{% endfor %}";

/** Reads glassllm's `<language>.tokenizer.json`. */
export function parseBpe(text: string): CharacterBpe {
  const json = JSON.parse(text) as Partial<CharacterBpe>;
  if (!Array.isArray(json.alphabet) || !Array.isArray(json.merges)) {
    throw new Error('The tokenizer file has no "alphabet" and "merges". Give a <language>.tokenizer.json of glassllm.');
  }
  return {alphabet: json.alphabet as string[], merges: json.merges as Merge[]};
}

/** Learns up to `vocabSize` tokens: always the most frequent adjacent pair, on ties the first in code point order. */
export function trainBpe(text: string, vocabSize: number): CharacterBpe {
  const words = countWords(text);
  const alphabet = [...new Set(words.flatMap(({symbols}) => symbols))].sort(byCodePoints);
  const single = SPECIAL_TEXTS.length + alphabet.length;
  if (vocabSize < single) {
    throw new Error(
      `The vocabulary should have ${single} or more tokens, the specials and characters, got ${vocabSize}.`,
    );
  }
  const pairs: PairCounts = new Map();
  words.forEach((word) => countPairs(word, 1, pairs));
  const merges: Merge[] = [];
  while (merges.length < vocabSize - single && pairs.size > 0) {
    const best = mostFrequent(pairs);
    merges.push(best);
    for (const word of words) {
      if (has(word.symbols, best)) {
        countPairs(word, -1, pairs);
        word.symbols = applyMerge(word.symbols, best);
        countPairs(word, 1, pairs);
      }
    }
  }
  return {alphabet, merges};
}

/** The texts of all tokens, by id. */
export function bpeVocabulary({alphabet, merges}: CharacterBpe): string[] {
  return [...SPECIAL_TEXTS, ...alphabet, ...merges.map(([left, right]) => left + right)];
}

/** The tokenizer in Hugging Face's format. Characters outside the alphabet become `<unk>`. */
export function bpeTokenizer(bpe: CharacterBpe): TokenizerFiles {
  const [pad, unk, bos, eos] = SPECIAL_TEXTS;
  const matching = {single_word: false, lstrip: false, rstrip: false, normalized: false, special: true};
  return {
    tokenizerJson: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: SPECIAL_TEXTS.map((content, id) => ({id, content, ...matching})),
      normalizer: {
        type: 'Sequence',
        normalizers: [{type: 'NFC'}, {type: 'Replace', pattern: {String: ' '}, content: SPACE}],
      },
      pre_tokenizer: {type: 'Split', pattern: {Regex: CHUNK}, behavior: 'Isolated', invert: false},
      post_processor: null,
      decoder: {
        type: 'Sequence',
        decoders: [{type: 'Replace', pattern: {String: SPACE}, content: ' '}, {type: 'Fuse'}],
      },
      model: {
        ...{type: 'BPE', dropout: null, continuing_subword_prefix: null, end_of_word_suffix: null},
        ...{unk_token: unk, fuse_unk: false, byte_fallback: false, ignore_merges: false},
        vocab: Object.fromEntries(bpeVocabulary(bpe).map((token, id) => [token, id])),
        merges: bpe.merges,
      },
    },
    tokenizerConfig: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      ...{bos_token: bos, eos_token: eos, unk_token: unk, pad_token: pad},
      clean_up_tokenization_spaces: false,
      chat_template: CHAT_TEMPLATE,
    },
  };
}

interface Word {
  symbols: string[];
  count: number;
}

function countWords(text: string): Word[] {
  const counts = new Map<string, number>();
  for (const chunk of text.normalize('NFC').replaceAll(' ', SPACE).match(new RegExp(CHUNK, 'gu')) ?? []) {
    counts.set(chunk, (counts.get(chunk) ?? 0) + 1);
  }
  return Array.from(counts, ([chunk, count]) => ({symbols: Array.from(chunk), count}));
}

/** Counts of the adjacent pairs that occur in the words. */
type PairCounts = Map<string, {pair: Merge; count: number}>;

/** Adds or subtracts the pairs of a word. */
function countPairs({symbols, count}: Word, sign: 1 | -1, pairs: PairCounts): void {
  for (let i = 0; i + 1 < symbols.length; i++) {
    const key = `${symbols[i]}\0${symbols[i + 1]}`;
    const entry = pairs.get(key) ?? {pair: [symbols[i], symbols[i + 1]], count: 0};
    entry.count += sign * count;
    if (entry.count > 0) {
      pairs.set(key, entry);
    } else {
      pairs.delete(key);
    }
  }
}

function mostFrequent(pairs: PairCounts): Merge {
  return [...pairs.values()].reduce((best, candidate) => {
    const ties = candidate.count === best.count;
    const wins = ties ? comparePairs(candidate.pair, best.pair) < 0 : candidate.count > best.count;
    return wins ? candidate : best;
  }).pair;
}

/** Searches without an allocation, because most words do not have the pair. */
function has(symbols: readonly string[], [left, right]: Merge): boolean {
  for (let i = symbols.indexOf(left); i >= 0; i = symbols.indexOf(left, i + 1)) {
    if (symbols[i + 1] === right) return true;
  }
  return false;
}

function applyMerge(symbols: readonly string[], [left, right]: Merge): string[] {
  const merged: string[] = [];
  for (let i = 0; i < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) {
      merged.push(left + right);
      i++;
    } else {
      merged.push(symbols[i]);
    }
  }
  return merged;
}

function comparePairs(a: Merge, b: Merge): number {
  return byCodePoints(a[0], b[0]) || byCodePoints(a[1], b[1]);
}

/** JavaScript compares UTF-16 units, Python code points: they differ beyond the basic plane. */
function byCodePoints(a: string, b: string): number {
  const left = Array.from(a, (character) => character.codePointAt(0)!);
  const right = Array.from(b, (character) => character.codePointAt(0)!);
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    if (left[i] !== right[i]) {
      return left[i] - right[i];
    }
  }
  return left.length - right.length;
}
