/**
 * @file Chat templates and tokenizers of real models: where answers are found, what is refused, and that nothing but
 * the conversation decides the tokens, in bounded time.
 */
import {expect} from 'chai';
import {encodeComparison, encodeConversation} from '../../examples/finetune/data/encode.js';
import {parseRecord} from '../../examples/finetune/data/records.js';
import {IGNORED, type Message, type Sample} from '../../examples/finetune/data/sample.js';
import {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';
import {TINY_VOCABULARY, tinyTokenizer, tinyTokenizerConfig, tinyTokenizerJson} from '../support/tiny_tokenizer.js';

const user = (content: string): Message => ({role: 'user', content});
const assistant = (content: string): Message => ({role: 'assistant', content});
const system = (content: string): Message => ({role: 'system', content});

const withTemplate = (template: string): ChatTokenizer =>
  tinyTokenizer({...tinyTokenizerConfig(), chat_template: template});
const render = (template: string, messages = [user('a')]): string => withTemplate(template).chat(messages);

const OPTIONS = {maxTokens: 10_000, tooLong: 'drop'} as const;

function sampleOf(messages: Message[], tokenizer: ChatTokenizer): Sample {
  const encoding = encodeConversation(0, messages, tokenizer, OPTIONS);
  if (!('sample' in encoding)) throw new Error(encoding.dropped);
  return encoding.sample;
}

/** The text of a sample with every learned piece in brackets. Each label is the token after its position. */
function shown({tokens, labels}: Sample, tokenizer: ChatTokenizer): string {
  const text = (ids: number[]): string => ids.map((id) => (id === 2 ? '</s>' : tokenizer.decode([id]))).join('');
  const all = [...tokens, labels.at(-1)!];
  const learned = all.map((_, i) => i > 0 && labels[i - 1] !== IGNORED);
  labels.forEach((label, i) => expect(label === IGNORED || label === all[i + 1]).to.equal(true));
  let result = '';
  for (let i = 0; i < all.length;) {
    let end = i;
    while (end < all.length && learned[end] === learned[i]) end++;
    const piece = text(all.slice(i, end));
    result += learned[i] ? `[${piece}]` : piece;
    i = end;
  }
  return result;
}

/** The parts of DeepSeek-R1-Distill's template that write texts, with this tokenizer's end token. */
const DEEPSEEK = [
  "{% set ns = namespace(system_prompt='') %}",
  "{%- for message in messages %}{%- if message['role'] == 'system' %}",
  "{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{ns.system_prompt}}",
  "{%- for message in messages %}{%- if message['role'] == 'user' %}{{'<User>' + message['content']}}{%- endif %}",
  "{%- if message['role'] == 'assistant' and message['content'] is none %}{%- for tool in message['tool_calls'] %}",
  "{{'<Assistant><call>' + tool['function']['name'] + '</call><|im_end|>'}}{%- endfor %}{%- endif %}",
  "{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}",
  "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}",
  "{{'<Assistant>' + content + '<|im_end|>'}}{%- endif %}{%- endfor -%}",
  "{% if add_generation_prompt %}{{'<Assistant><think>\\n'}}{% endif %}",
].join('');

/** The parts of Mistral-7B-Instruct-v0.3's template that write texts. */
const MISTRAL = [
  '{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}',
  '{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}',
  '{%- for message in loop_messages %}{%- if message["role"] == "user" %}',
  '{%- if loop.last and system_message is defined %}',
  '{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}{%- else %}',
  '{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}{%- elif message["role"] == "assistant" %}',
  '{{- " " + message["content"]|trim + eos_token}}{%- endif %}{%- endfor %}',
].join('');

describe('the border of an answer', () => {
  it('is where the text starts to depend on it, if a generation prompt starts reasoning (DeepSeek-R1)', () => {
    const tokenizer = withTemplate(DEEPSEEK);
    const of = (...messages: Message[]): string => shown(sampleOf(messages, tokenizer), tokenizer);
    expect(of(user('a'), assistant('b'))).to.equal('<User>a<Assistant>[b</s>]');
    // This answer begins with the same characters as what the generation prompt adds.
    expect(of(user('a'), assistant('<table>'))).to.equal('<User>a<Assistant>[<table></s>]');
    expect(of(user('a'), assistant('<think>\nhm</think>b'))).to.equal('<User>a<Assistant>[b</s>]');
    expect(of(system('s'), user('a'), assistant('b'), user('c'), assistant('d'))).to.equal(
      's<User>a<Assistant>[b</s>]<User>c<Assistant>[d</s>]',
    );
  });

  it('is the same for all answers to a question', () => {
    const raw = "{% for m in messages %}{{ m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}";
    const tokenizer = withTemplate(`${raw}{% if add_generation_prompt %}{{ 'assistant:<think>' }}{% endif %}`);
    const pair = {prompt: [user('a')], answers: ['<think>x', '<y']};
    const encoding = encodeComparison(0, pair, tokenizer, {...OPTIONS, objective: 'rm', layout: 'shared'});
    const {tokens, answers} = (encoding as {sample: Sample}).sample;
    const texts = answers.map(({start, end}) => tokenizer.decode([...tokens.slice(start, end)]));
    expect(texts).to.deep.equal(['<think>x', '<y']);
    // Alone, an answer that goes on with the reasoning is learned from there, as it will be generated.
    const alone = sampleOf([user('a'), assistant('<think>x')], tokenizer);
    expect(shown(alone, tokenizer)).to.equal('user:a</s>assistant:<think>[x</s>]');
  });

  it('is behind the prompt as for generation, if the prompt changes once it has an answer (Mistral)', () => {
    const tokenizer = withTemplate(MISTRAL);
    const of = (...messages: Message[]): string => shown(sampleOf(messages, tokenizer), tokenizer);
    expect(of(user('a'), assistant('b'))).to.equal('[INST] a[/INST][ b</s>]');
    expect(of(system('s'), user('a'), assistant('b'))).to.equal('[INST] s\n\na[/INST][ b</s>]');
    // The first answer saw the system message, which the text has no more: it is read, not learned.
    const two = encodeConversation(
      0,
      [system('s'), user('a'), assistant('b'), user('c'), assistant('d')],
      tokenizer,
      OPTIONS,
    );
    expect(two).to.include({unlabelledAnswers: 1});
    expect(shown((two as {sample: Sample}).sample, tokenizer)).to.equal(
      '[INST] a[/INST] b</s>[INST] s\n\nc[/INST][ d</s>]',
    );
    const pair = {prompt: [system('s'), user('a')], answers: ['b', 'c']};
    const encoding = encodeComparison(0, pair, tokenizer, {...OPTIONS, objective: 'dpo', layout: 'shared'});
    const {tokens, labels} = (encoding as {sample: Sample}).sample;
    expect(tokenizer.decode([...tokens])).to.equal('[INST] s\n\na[/INST] b] c');
    expect(tokenizer.decode([...labels].filter((label) => label !== IGNORED))).to.equal(' b c');
  });

  it('is refused where it is ambiguous, with what differs', () => {
    const moved = "{% for m in messages %}{% if loop.last %}{{ 'L' }}{% endif %}{{ m.content }};{% endfor %}";
    expect(() => sampleOf([user('a'), assistant('b')], withTemplate(moved))).to.throw(
      /answers cannot be found in it\. After 0 equal characters it writes "La;" without the answer, and "a;Lb;" with it\./,
    );
  });
});

describe('calls of tools', () => {
  const CALLS = [{type: 'function', function: {name: 'add', arguments: {a: 1}}}];
  const record = (content?: string | null) => ({
    messages: [
      {role: 'user', content: '1+1?'},
      {role: 'assistant', content, tool_calls: CALLS},
    ],
  });
  const messagesOf = (content?: string | null): Message[] =>
    (parseRecord(record(content)) as {messages: Message[]}).messages;

  it('are read, also beside a content that is null or missing', () => {
    expect(messagesOf(null)[1]).to.deep.equal({...assistant(''), extra: {tool_calls: CALLS, content: null}});
    expect(messagesOf(undefined)[1]).to.deep.equal(messagesOf(null)[1]);
    expect(messagesOf('Let me see.')[1]).to.deep.equal({...assistant('Let me see.'), extra: {tool_calls: CALLS}});
    expect(() => parseRecord({messages: [{role: 'assistant', content: null}]})).to.throw('must be a text, got null');
  });

  it('are learned where the template writes them, and else the conversation is left out', () => {
    const writes = withTemplate(DEEPSEEK);
    expect(shown(sampleOf(messagesOf(null), writes), writes)).to.equal('<User>1+1?<Assistant>[<call>add</call></s>]');
    const dropped = {dropped: 'tool calls not written'};
    expect(encodeConversation(0, messagesOf(null), tinyTokenizer(), OPTIONS)).to.deep.equal(dropped);
    expect(encodeConversation(0, messagesOf('Let me see.'), tinyTokenizer(), OPTIONS)).to.deep.equal(dropped);
    const named = messagesOf(null).map((message) => ({...message, extra: {...message.extra, name: 'Ada'}}));
    const names = withTemplate('{% for m in messages %}{{ m.role }} {{ m.name }}: {{ m.content or "" }};{% endfor %}');
    expect(encodeConversation(0, named, names, OPTIONS), 'writes other fields').to.deep.equal(dropped);
    const pair = {prompt: [...messagesOf(null), user('so?')], answers: ['2', '3']};
    const rm = {...OPTIONS, objective: 'rm', layout: 'shared'} as const;
    expect(encodeComparison(0, pair, tinyTokenizer(), rm)).to.deep.equal(dropped);
  });

  it('are no answers to compare', () => {
    const chosen = [{role: 'assistant', content: null, tool_calls: CALLS}];
    expect(() => parseRecord({prompt: 'a', chosen, rejected: 'b'})).to.throw('chosen calls tools: only texts');
  });
});

describe('chat templates', () => {
  it('get a date of their own, whatever the clock, the time zone and the language are', () => {
    const format = "{{ strftime_now('%Y-%m-%d %d %b %B %A %H:%M %j %%') }}";
    expect(render(format)).to.equal('2024-07-26 26 Jul July Friday 00:00 208 %');
    expect(() => render("{{ strftime_now('%Q') }}")).to.throw('must get letters that it knows, got %Q');
    expect(() => render('{{ messages | tojson(sort_keys=true) }}')).to.throw("sorts by the machine's language");
    expect(render('{{ messages | tojson }}')).to.equal('[{"role": "user", "content": "a"}]');
  });

  it('end, in bounded time and memory', () => {
    const nested = '{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}';
    const doubled = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}";
    const lists = '{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}';
    const cases: [string, RegExp][] = [
      ['{% for i in range(1000000000) %}x{% endfor %}', /range\(\) must give at most 100000 numbers, got 1000000000/],
      ['{{ range(0, 1, 0) }}', /range\(\) must give/],
      [nested, /it must end within 5000000 steps/],
      [doubled, /a text has more than 67108864 characters/],
      [lists, /a list has more than 100000 items/],
      ['x'.repeat(2 ** 20 + 1), /at most 1048576 characters, got 1048577/],
      ['{% if a %}'.repeat(20_000), /fails: /],
    ];
    for (const [template, message] of cases) {
      expect(() => render(template), template.slice(0, 40))
        .to.throw(message)
        .and.to.have.property('message')
        .match(/^The chat template/);
    }
    expect(render('{{ range(5, 0, -2) | list }}{{ range(3) | list }}')).to.equal('[5, 3, 1][0, 1, 2]');
  });
});

describe('tokenizers', () => {
  const make = (change: (json: Record<string, never>) => void): ChatTokenizer => {
    const json = tinyTokenizerJson() as Record<string, never>;
    change(json);
    return new ChatTokenizer(json, tinyTokenizerConfig(), TINY_VOCABULARY, 'tiny');
  };
  const split = (behavior: string, invert = false): object => ({
    ...{type: 'Split', pattern: {Regex: '\\d'}, behavior, invert},
  });
  const step =
    (pre: object): (() => ChatTokenizer) =>
    () =>
      make((json) =>
        Object.assign(json, {pre_tokenizer: {type: 'Sequence', pretokenizers: [pre, json.pre_tokenizer]}}),
      );

  const refused: [string, () => ChatTokenizer][] = [
    ['behavior "MergedWithNext" of Split in pre_tokenizer', step(split('MergedWithNext'))],
    ['behavior "MergedWithPrevious" of Split', step(split('MergedWithPrevious'))],
    ['behavior "Contiguous" of Split', step(split('Contiguous'))],
    ['invert true of Split with behavior "Isolated"', step(split('Isolated', true))],
    ['behavior unset of Punctuation', step({type: 'Punctuation'})],
    ['split unset of Metaspace', step({type: 'Metaspace'})],
    ['type "Whitespace" in pre_tokenizer', step({type: 'Whitespace'})],
    [
      'single_word true of "<x>" in added_tokens',
      () => make(({added_tokens: tokens}) => (tokens as object[]).push({id: 0, content: '<x>', single_word: true})),
    ],
    ['dropout 0.1 in model', () => make(({model}) => Object.assign(model, {dropout: 0.1}))],
    [
      'continuing_subword_prefix "##" in model',
      () => make(({model}) => Object.assign(model, {continuing_subword_prefix: '##'})),
    ],
  ];
  for (const [what, tokenizer] of refused) {
    it(`are refused for ${what}`, () => {
      expect(tokenizer)
        .to.throw(`The tokenizer of tiny fails: ${what}`)
        .with.property('message')
        .match(/is not supported/);
    });
  }

  it('are taken with the steps that the package takes as they are', () => {
    for (const pre of [split('Isolated'), split('Removed', true), {type: 'Digits', individual_digits: true}]) {
      expect(step(pre)().encode('a1')).to.not.equal(undefined);
    }
  });
});
