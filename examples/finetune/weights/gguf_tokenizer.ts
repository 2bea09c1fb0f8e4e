/**
 * @file Converts a .gguf file's tokenizer (byte-level or SentencePiece BPE) to tokenizer.json and
 * tokenizer_config.json.
 */
import type {Metadata} from './gguf_metadata.js';

export interface TokenizerFiles {
  tokenizerJson: Record<string, unknown>;
  tokenizerConfig: Record<string, unknown>;
}

/** SentencePiece's own pieces have up to 16 characters. Longer ones would make the search for merges slow. */
const LONGEST_PIECE = 128;
/** Limit for SentencePiece. Gemma's quarter of a million tokens have 580,000 merges. */
const MOST_MERGES = 2 ** 20;
/** Token types of llama.cpp. */
const CONTROL = 3;
const USER_DEFINED = 4;

const GPT2_BYTES = {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true};
const SPLIT_BYTES = {...GPT2_BYTES, use_regex: false};
const splitBy = (pattern: string) => ({
  type: 'Sequence',
  pretokenizers: [{type: 'Split', pattern: {Regex: pattern}, behavior: 'Isolated', invert: false}, SPLIT_BYTES],
});
/** Llama 3 groups up to three digits, Qwen 2 takes each digit alone. */
const wordsAndDigits = (digits: string): string =>
  `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const LLAMA3 = {pre: splitBy(wordsAndDigits('\\p{N}{1,3}')), normalizer: null, ignoreMerges: true, addBos: true};
const GPT2 = {pre: GPT2_BYTES as object, normalizer: null, ignoreMerges: false, addBos: false};

/** How to split text before the merges, by `tokenizer.ggml.pre`, as in the tokenizer.json of the models that use it. */
const PRE_TOKENIZERS: Readonly<
  Record<string, {pre: object; normalizer: object | null; ignoreMerges: boolean; addBos: boolean}>
> = {
  default: GPT2,
  'gpt-2': GPT2,
  smollm: {...GPT2, pre: {type: 'Sequence', pretokenizers: [{type: 'Digits', individual_digits: true}, GPT2_BYTES]}},
  llama3: LLAMA3,
  'llama-v3': LLAMA3,
  'llama-bpe': LLAMA3,
  qwen2: {pre: splitBy(wordsAndDigits('\\p{N}')), normalizer: {type: 'NFC'}, ignoreMerges: false, addBos: false},
  'deepseek-r1-qwen': {
    ...{pre: splitBy(wordsAndDigits('\\p{N}')), normalizer: {type: 'NFC'}, ignoreMerges: false, addBos: true},
  },
};

interface Vocabulary {
  tokens: string[];
  ids: ReadonlyMap<string, number>;
}

/** Throws if the tokenizer is of another kind or its parts contradict each other. */
export function tokenizerOf(metadata: Metadata): TokenizerFiles {
  const tokens = metadata.texts('tokenizer.ggml.tokens');
  const vocabulary = {tokens, ids: new Map(tokens.map((token, id) => [token, id]))};
  const special = (name: string): string | null => specialToken(metadata, name, vocabulary);
  const model = metadata.text('tokenizer.ggml.model');
  if (model !== 'gpt2' && model !== 'llama') {
    throw new Error(
      `${metadata.path}: its tokenizer is of the kind ${model}. Supported are gpt2 (byte-level BPE) and llama (SentencePiece).`,
    );
  }
  const unknown = special('unknown');
  const {parts, addBos} =
    model === 'gpt2' ? byteLevel(metadata, vocabulary) : sentencePiece(metadata, vocabulary, unknown);
  const bos = special('bos');
  const startsWithBos = bos !== null && metadata.boolean('tokenizer.ggml.add_bos_token', addBos);
  return {
    tokenizerJson: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens(metadata, vocabulary),
      ...parts,
      post_processor: startsWithBos ? beginWith(bos, vocabulary) : null,
    },
    tokenizerConfig: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      bos_token: bos,
      eos_token: special('eos'),
      unk_token: unknown,
      pad_token: special('padding'),
      add_bos_token: startsWithBos,
      clean_up_tokenization_spaces: false,
      chat_template: metadata.optionalText('tokenizer.chat_template') ?? undefined,
    },
  };
}

function specialToken(metadata: Metadata, name: string, {tokens}: Vocabulary): string | null {
  const key = `tokenizer.ggml.${name}_token_id`;
  const id = metadata.optionalNumber(key);
  if (id !== null && tokens[id] === undefined) {
    throw new Error(`${metadata.path}: its metadata ${key} is ${id}, but the tokenizer has ${tokens.length} tokens.`);
  }
  return id === null ? null : tokens[id];
}

function addedTokens(metadata: Metadata, {tokens}: Vocabulary): object[] {
  const types = metadata.numbers('tokenizer.ggml.token_type', []);
  const added = (type: number) => type === CONTROL || type === USER_DEFINED;
  return tokens.flatMap((content, id) =>
    added(types[id])
      ? {
          id,
          content,
          single_word: false,
          lstrip: false,
          rstrip: false,
          normalized: false,
          special: types[id] === CONTROL,
        }
      : [],
  );
}

function byteLevel(metadata: Metadata, vocabulary: Vocabulary): {parts: object; addBos: boolean} {
  const kind = metadata.text('tokenizer.ggml.pre', 'default');
  if (!Object.hasOwn(PRE_TOKENIZERS, kind)) {
    const known = Object.keys(PRE_TOKENIZERS).join(', ');
    throw new Error(
      `${metadata.path}: its tokenizer cuts text like ${kind}, which is not supported (only like ${known}). ` +
        "Use the model's Hugging Face folder, which has a tokenizer.json.",
    );
  }
  const {pre, normalizer, ignoreMerges, addBos} = PRE_TOKENIZERS[kind];
  const merges = metadata.texts('tokenizer.ggml.merges').map((merge) => splitMerge(merge, vocabulary, metadata.path));
  const parts = {
    normalizer,
    pre_tokenizer: pre,
    decoder: {type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true},
    model: bpe(vocabulary, merges, {
      unk_token: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: ignoreMerges,
    }),
  };
  return {parts, addBos};
}

/** @example splitMerge('Ġ t', …) // ['Ġ', 't'] */
function splitMerge(merge: string, {ids}: Vocabulary, path: string): [string, string] {
  // A token may begin with a space. Then the second space separates the two tokens.
  const middle = merge.indexOf(' ', 1);
  const [left, right] = [merge.slice(0, middle), merge.slice(middle + 1)];
  if (middle < 0 || ![left, right, left + right].every((token) => ids.has(token))) {
    throw new Error(`${path}: its tokenizer merges ${JSON.stringify(merge)}, which are not tokens of it.`);
  }
  return [left, right];
}

/**
 * SentencePiece's BPE has no merges: it joins the neighbours whose union has the highest score. The equivalent list of
 * merges has every split of a token into two tokens, by falling score (as in transformers' `generate_merges`).
 */
function sentencePiece(
  metadata: Metadata,
  vocabulary: Vocabulary,
  unknown: string | null,
): {parts: object; addBos: boolean} {
  const {tokens} = vocabulary;
  const scores = metadata.numbers('tokenizer.ggml.scores');
  if (scores.length !== tokens.length) {
    throw new Error(`${metadata.path}: its tokenizer has ${tokens.length} tokens, but ${scores.length} scores.`);
  }
  const longest = tokens.reduce((most, {length}) => Math.max(most, length), 0);
  if (longest > LONGEST_PIECE) {
    throw new Error(
      `${metadata.path}: its tokenizer has a token of ${longest} characters, and ${LONGEST_PIECE} are allowed.`,
    );
  }
  const prefixSpace = metadata.boolean('tokenizer.ggml.add_space_prefix', true);
  const spaces = {type: 'Replace', pattern: {String: ' '}, content: '▁'};
  const merges = mergesByScore(vocabulary, scores, metadata.path);
  const parts = {
    normalizer: {type: 'Sequence', normalizers: [...(prefixSpace ? [{type: 'Prepend', prepend: '▁'}] : []), spaces]},
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        {type: 'Replace', pattern: {String: '▁'}, content: ' '},
        {type: 'ByteFallback'},
        {type: 'Fuse'},
        ...(prefixSpace ? [{type: 'Strip', content: ' ', start: 1, stop: 0}] : []),
      ],
    },
    model: bpe(vocabulary, merges, {
      ...{unk_token: unknown, fuse_unk: true, byte_fallback: tokens.includes('<0x00>'), ignore_merges: false},
    }),
  };
  return {parts, addBos: true};
}

function mergesByScore({tokens, ids}: Vocabulary, scores: readonly number[], path: string): [string, string][] {
  const merges: {pair: [string, string]; score: number; order: number[]}[] = [];
  tokens.forEach((token, id) => {
    for (let cut = 1; cut < token.length; cut++) {
      const pair: [string, string] = [token.slice(0, cut), token.slice(cut)];
      const [left, right] = pair.map((part) => ids.get(part));
      if (left !== undefined && right !== undefined) {
        merges.push({pair, score: scores[id], order: [left, right]});
      }
    }
    // A short list of tokens can be crafted to have more merges than any memory holds.
    if (merges.length > MOST_MERGES) {
      throw new Error(`${path}: its tokens can be cut in more ways than the ${MOST_MERGES} that are allowed.`);
    }
  });
  merges.sort((a, b) => b.score - a.score || a.order[0] - b.order[0] || a.order[1] - b.order[1]);
  return merges.map(({pair}) => pair);
}

function bpe(
  {tokens}: Vocabulary,
  merges: [string, string][],
  flags: {unk_token: string | null; fuse_unk: boolean; byte_fallback: boolean; ignore_merges: boolean},
): object {
  const common = {dropout: null, continuing_subword_prefix: null, end_of_word_suffix: null};
  return {type: 'BPE', ...common, ...flags, vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges};
}

/** The post-processor that puts one token before a text. */
function beginWith(token: string, {ids}: Vocabulary): object {
  const special = (sequence: number) => ({SpecialToken: {id: token, type_id: sequence}});
  const text = (id: string, sequence: number) => ({Sequence: {id, type_id: sequence}});
  return {
    type: 'TemplateProcessing',
    single: [special(0), text('A', 0)],
    pair: [special(0), text('A', 0), special(1), text('B', 1)],
    special_tokens: {[token]: {id: token, ids: [ids.get(token)], tokens: [token]}},
  };
}
