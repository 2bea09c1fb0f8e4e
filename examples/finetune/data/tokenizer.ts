/** @file A model's own tokenizer and chat template, run by @huggingface/tokenizers and @huggingface/jinja. */
import {Tokenizer as HuggingFaceTokenizer} from '@huggingface/tokenizers';
import {ChatTemplate} from './chat_template.js';
import {withExactCuts} from './pre_tokenizer.js';
import type {Message} from './sample.js';
import {checkTokenizer} from './tokenizer_support.js';

/** The parts of the package that are used here. The package's own types do not resolve in Node's ESM. */
interface TextEncoding {
  encode(text: string, options: {add_special_tokens: boolean}): {ids: number[]};
  decode(ids: number[], options: {skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean}): string;
  get_vocab(withAddedTokens: boolean): Map<string | undefined, number>;
  token_to_id(token: string): number | undefined;
  get_added_tokens_decoder(): Map<number, {special: boolean}>;
}
const PackageTokenizer = HuggingFaceTokenizer as unknown as new (tokenizer: object, config: object) => TextEncoding;

/**
 * For tokenizers without a chat template, like those of base models: each message on its own line, and answers with
 * their end token in place of the line break.
 */
const PLAIN_TEMPLATE =
  "{% for message in messages %}{{ message['content'] }}" +
  "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}";

/** The special tokens that templates know by name. */
const NAMED_TOKENS = ['bos_token', 'eos_token', 'unk_token', 'pad_token'] as const;

/** Converts text to tokens and back, and conversations to text, in the way the model was trained. */
export class ChatTokenizer {
  /** Null if the tokenizer has none. */
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  /** The token for text that has no token. Null where every text has tokens, as in byte-level vocabularies. */
  readonly unknownTokenId: number | null;
  private readonly encoding: TextEncoding;
  private readonly specialIds: ReadonlySet<number>;
  private readonly namedTokens: Record<string, string>;
  private readonly template: ChatTemplate;
  private readonly cleanUp: boolean;

  /**
   * @param tokenizerJson A `tokenizer.json` of Hugging Face.
   * @param tokenizerConfig A `tokenizer_config.json` of Hugging Face.
   * @param vocabSize Rows of the model's embeddings. Every id must be below it.
   * @param origin Name of the model in error messages.
   * @throws Error for damaged files or files of another model.
   */
  constructor(
    tokenizerJson: Record<string, unknown>,
    tokenizerConfig: Record<string, unknown>,
    readonly vocabSize: number,
    readonly origin: string,
  ) {
    this.encoding = this.guard('The tokenizer', () => {
      checkTokenizer(tokenizerJson);
      return new PackageTokenizer(withExactCuts(tokenizerJson), tokenizerConfig);
    });
    this.checkVocabulary();
    const added = this.encoding.get_added_tokens_decoder();
    this.specialIds = new Set([...added].filter(([, {special}]) => special).map(([id]) => id));
    this.namedTokens = Object.fromEntries(
      NAMED_TOKENS.map((name) => [name, tokenText(tokenizerConfig[name])] as const).filter(([, text]) => text !== ''),
    );
    this.bosTokenId = this.namedTokenId('bos_token');
    this.eosTokenId = this.namedTokenId('eos_token');
    this.unknownTokenId = unknownTokenId(tokenizerJson, this.encoding);
    const source = chatTemplate(tokenizerConfig.chat_template);
    if (source === null && this.eosTokenId === null) {
      throw new Error(
        `The tokenizer of ${origin} has neither a chat template nor an eos_token: answers would not end.`,
      );
    }
    this.template = this.guard('The chat template', () => new ChatTemplate(source ?? PLAIN_TEMPLATE));
    this.cleanUp = tokenizerConfig.clean_up_tokenization_spaces === true;
  }

  /** Tokens of a text. The text may contain special tokens; none are added. */
  encode(text: string): number[] {
    return this.tokensOf(text, false);
  }

  /** Tokens of a text of its own: behind the start token, where the tokenizer adds one, and with the end token. */
  encodeWhole(text: string): number[] {
    const ids = this.tokensOf(text, true);
    return this.eosTokenId === null || ids.at(-1) === this.eosTokenId ? ids : [...ids, this.eosTokenId];
  }

  private tokensOf(text: string, withSpecial: boolean): number[] {
    const {ids} = this.encoding.encode(text, {add_special_tokens: withSpecial});
    const wrong = ids.find((id) => id >= this.vocabSize);
    if (wrong !== undefined) throw new Error(this.tooManyTokens(wrong));
    return ids;
  }

  /** Text of tokens, without special ones. */
  decode(ids: readonly number[]): string {
    if (ids.length === 0) return '';
    return this.encoding.decode([...ids], {skip_special_tokens: true, clean_up_tokenization_spaces: this.cleanUp});
  }

  /** Whether a token is a mark, like `<|im_end|>`, and not text. */
  isSpecial(id: number): boolean {
    return this.specialIds.has(id) || id === this.eosTokenId;
  }

  /**
   * A conversation as the text that the model reads.
   *
   * @param options.addGenerationPrompt Appends what precedes an answer of the model. Default false.
   * @throws Error if the model's template refuses the conversation. Some templates do where roles do not alternate.
   */
  chat(messages: readonly Message[], options: {addGenerationPrompt?: boolean} = {}): string {
    const roles = messages.map(({role}) => role).join(', ');
    return this.guard(`The chat template, given messages of ${roles || 'nobody'},`, () =>
      this.template.render({
        messages: messages.map(({role, content, extra}) => ({role, content, ...extra})),
        add_generation_prompt: options.addGenerationPrompt ?? false,
        ...this.namedTokens,
      }),
    );
  }

  private guard<T>(what: string, make: () => T): T {
    try {
      return make();
    } catch (error) {
      throw new Error(`${what} of ${this.origin} fails: ${(error as Error).message}.`, {cause: error});
    }
  }

  /**
   * Added tokens may lie beyond the embeddings until a text uses them. Some models have such an unused padding token.
   */
  private checkVocabulary(): void {
    // The vocabulary also lists ids without a token, without a text.
    const tokens = [...this.encoding.get_vocab(false)].filter(([text]) => text !== undefined);
    const largest = tokens.reduce((most, [, id]) => Math.max(most, id), -1);
    if (largest < 0) throw new Error(`The tokenizer of ${this.origin} has an empty vocabulary.`);
    if (largest >= this.vocabSize) throw new Error(this.tooManyTokens(largest));
  }

  private tooManyTokens(id: number): string {
    const has = `The tokenizer of ${this.origin} has a token ${id}, but the model knows only ${this.vocabSize}`;
    return `${has}: it belongs to another model. Use the tokenizer.json that came with the weights.`;
  }

  private namedTokenId(name: 'bos_token' | 'eos_token'): number | null {
    const text = this.namedTokens[name];
    if (text === undefined) return null;
    const id = this.encoding.token_to_id(text);
    if (id !== undefined && id < this.vocabSize) return id;
    const remedy = 'tokenizer.json and tokenizer_config.json should be of the same model.';
    throw new Error(`The ${name} ${quote(text)} of ${this.origin} is not among the tokens of its tokenizer: ${remedy}`);
  }
}

/** Byte-pair models name the token. Unigram models give its id. */
function unknownTokenId({model}: Record<string, unknown>, encoding: TextEncoding): number | null {
  const {unk_token: token, unk_id: id} = (model ?? {}) as {unk_token?: unknown; unk_id?: unknown};
  if (typeof id === 'number') return id;
  return typeof token === 'string' ? (encoding.token_to_id(token) ?? null) : null;
}

/** Configs write a special token as its text, or as an object with its `content`. */
function tokenText(token: unknown): string {
  if (typeof token === 'string') return token;
  const content = (token as {content?: unknown} | null | undefined)?.content;
  return typeof content === 'string' ? content : '';
}

/** Configs have one template, or a list of named templates of which `default` is for conversations. */
function chatTemplate(template: unknown): string | null {
  if (typeof template === 'string') return template;
  if (!Array.isArray(template)) return null;
  const named = template as {name?: unknown; template?: unknown}[];
  const found = named.find(({name}) => name === 'default') ?? named[0];
  return typeof found?.template === 'string' ? found.template : null;
}

function quote(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);
}
