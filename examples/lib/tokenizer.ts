/** @file GlassLM's character byte-pair encoding, run by @huggingface/tokenizers and trained here when there is none. */
import {Tokenizer as HuggingFaceTokenizer} from '@huggingface/tokenizers';

/** What is used of the package, whose own types do not resolve in Node's ESM. */
interface BytePairEncoder {
  encode(text: string, options: {add_special_tokens: boolean}): {ids: number[]};
}
const Encoder = HuggingFaceTokenizer as unknown as new (tokenizer: object, config: object) => BytePairEncoder;

const SPACE = '▁';
const UNKNOWN_TEXT = '⁇';
const SPECIALS = ['<pad>', '<unk>', '<bos>', '<eos>'] as const;
/** A newline, a word with the spaces before it, or trailing spaces: merges never cross these chunks. */
const CHUNK = '\\n|▁*[^▁\\n]+|▁+';

export type Merge = readonly [string, string];

/** A tokenizer as glassllm stores it: `vocab = specials + alphabet + merged pairs`. */
export class Tokenizer {
  static readonly PAD = 0;
  static readonly UNKNOWN = 1;
  static readonly BOS = 2;
  static readonly EOS = 3;

  readonly vocab: readonly string[];
  private readonly bpe: BytePairEncoder;

  constructor(
    readonly alphabet: readonly string[],
    readonly merges: readonly Merge[],
  ) {
    this.vocab = [...SPECIALS, ...alphabet, ...merges.map(([left, right]) => left + right)];
    this.bpe = new Encoder(tokenizerJson(this.vocab, merges), {});
  }

  /** Reads glassllm's `<language>.tokenizer.json`. */
  static fromJson(text: string): Tokenizer {
    const json = JSON.parse(text) as {alphabet?: string[]; merges?: [string, string][]};
    if (!Array.isArray(json.alphabet) || !Array.isArray(json.merges)) {
      throw new Error(
        'The tokenizer file has no "alphabet" and "merges". Give a <language>.tokenizer.json of glassllm.',
      );
    }
    return new Tokenizer(json.alphabet, json.merges);
  }

  /** Learns up to `vocabSize` tokens: always the most frequent adjacent pair, ties to the first in code point order. */
  static train(text: string, vocabSize: number): Tokenizer {
    const words = countWords(text);
    const alphabet = [...new Set(words.flatMap(({symbols}) => symbols))].sort(byCodePoints);
    if (vocabSize < SPECIALS.length + alphabet.length) {
      throw new Error(
        `vocabSize ${vocabSize} is below ${SPECIALS.length + alphabet.length}, the specials and characters.`,
      );
    }
    const merges: Merge[] = [];
    while (merges.length < vocabSize - SPECIALS.length - alphabet.length) {
      const best = mostFrequentPair(words);
      if (best === null) {
        break;
      }
      merges.push(best);
      words.forEach((word) => (word.symbols = applyMerge(word.symbols, best)));
    }
    return new Tokenizer(alphabet, merges);
  }

  /** Token ids of a text; characters outside the alphabet become `Tokenizer.UNKNOWN`. */
  encode(text: string): number[] {
    return text === '' ? [] : this.bpe.encode(text, {add_special_tokens: false}).ids;
  }

  /** Text of token ids, without padding, `<bos>` and `<eos>`. */
  decode(ids: Iterable<number>): string {
    return Array.from(ids, (id) => this.tokenText(id))
      .join('')
      .replaceAll(SPACE, ' ');
  }

  private tokenText(id: number): string {
    if (id === Tokenizer.UNKNOWN) {
      return UNKNOWN_TEXT;
    }
    return id < SPECIALS.length ? '' : this.vocab[id];
  }

  toJson(): string {
    return JSON.stringify({version: 1, alphabet: this.alphabet, merges: this.merges});
  }
}

function tokenizerJson(vocab: readonly string[], merges: readonly Merge[]): object {
  return {
    added_tokens: [],
    normalizer: {
      type: 'Sequence',
      normalizers: [{type: 'NFC'}, {type: 'Replace', pattern: {String: ' '}, content: SPACE}],
    },
    pre_tokenizer: {type: 'Split', pattern: {Regex: CHUNK}, behavior: 'Isolated', invert: false},
    post_processor: null,
    decoder: null,
    model: {
      type: 'BPE',
      unk_token: SPECIALS[Tokenizer.UNKNOWN],
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
      merges,
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

function mostFrequentPair(words: readonly Word[]): Merge | null {
  const pairs = new Map<string, {pair: Merge; count: number}>();
  for (const {symbols, count} of words) {
    for (let i = 0; i + 1 < symbols.length; i++) {
      const key = `${symbols[i]}\0${symbols[i + 1]}`;
      const seen = pairs.get(key);
      if (seen === undefined) {
        pairs.set(key, {pair: [symbols[i], symbols[i + 1]], count});
      } else {
        seen.count += count;
      }
    }
  }
  let best: {pair: Merge; count: number} | null = null;
  for (const candidate of pairs.values()) {
    const wins = best === null || candidate.count > best.count;
    if (wins || (candidate.count === best!.count && comparePairs(candidate.pair, best!.pair) < 0)) {
      best = candidate;
    }
  }
  return best?.pair ?? null;
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
