/** @file A tokenizer of bytes with a few merges and ChatML's special tokens, for tests that need no download. */
import {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';

/** SmolLM2's template, which adds a system message if there is none. */
const CHATML =
  "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe brief<|im_end|>\n' }}" +
  "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** Merges across the borders of messages, so that these have to be encoded apart. */
const MERGES = [
  ['Ċ', 'Ċ'],
  ['a', 'b'],
  ['Ġ', 'a'],
] as const;
const SPECIALS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];

/** Byte-level BPE writes bytes as printable characters (GPT-2's `bytes_to_unicode`). */
function byteCharacters(): string[] {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let others = 0;
  return Array.from({length: 256}, (_, byte) => String.fromCodePoint(printable(byte) ? byte : 256 + others++));
}

export function tinyTokenizerJson(): Record<string, unknown> {
  const tokens = [...SPECIALS, ...byteCharacters(), ...MERGES.map(([left, right]) => left + right)];
  const bytes = {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false};
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIALS.map((content, id) => {
      return {id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true};
    }),
    normalizer: null,
    pre_tokenizer: bytes,
    post_processor: null,
    decoder: bytes,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: MERGES.map((pair) => [...pair]),
    },
  };
}

export const TINY_VOCABULARY = SPECIALS.length + 256 + MERGES.length;

export function tinyTokenizerConfig(): Record<string, unknown> {
  return {bos_token: '<|im_start|>', eos_token: '<|im_end|>', pad_token: '<|endoftext|>', chat_template: CHATML};
}

export function tinyTokenizer(config: Record<string, unknown> = tinyTokenizerConfig()): ChatTokenizer {
  return new ChatTokenizer(tinyTokenizerJson(), config, TINY_VOCABULARY, 'tiny');
}
