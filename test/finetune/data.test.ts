/**
 * @file The data of examples/finetune: files to records, records to tokens and labels, samples to rows, rows to batches
 * and masks.
 */
import {mkdtempSync, rmSync, truncateSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {execFileSync, spawnSync} from 'node:child_process';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import fc from 'fast-check';
import {type Batch, toBatch} from '../../examples/finetune/data/batch.js';
import {
  type Encoding,
  encodeComparison,
  encodeConversation,
  encodeText,
  encodeTextPair,
} from '../../examples/finetune/data/encode.js';
import {sha256OfFile} from '../../src/cli/files.js';
import {checkFileType} from '../../examples/finetune/data/file_type.js';
import {type ReadOptions, readJsonItems} from '../../examples/finetune/data/json_stream.js';
import {packSamples} from '../../examples/finetune/data/packing.js';
import {parseRecord} from '../../examples/finetune/data/records.js';
import {type Position, type RowSettings, RowSource} from '../../examples/finetune/data/rows.js';
import {IGNORED, type Message, type Row, type Sample, usedTokens} from '../../examples/finetune/data/sample.js';
import {shuffleStream} from '../../examples/finetune/data/shuffle.js';
import {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';
import {uniform} from '../../examples/finetune/random.js';
import {depthOf, readJsonObject} from '../../examples/finetune/read_file.js';
import {bpeTokenizer} from '../../examples/finetune/weights/bpe.js';
import {TINY_VOCABULARY, tinyTokenizer, tinyTokenizerConfig, tinyTokenizerJson} from '../support/tiny_tokenizer.js';

const tokenizer = tinyTokenizer();
const user = (content: string): Message => ({role: 'user', content});
const assistant = (content: string): Message => ({role: 'assistant', content});
const system = (content: string): Message => ({role: 'system', content});

let folder: string;
before(() => (folder = mkdtempSync(join(tmpdir(), 'finetune-data-'))));
after(() => rmSync(folder, {recursive: true}));

let files = 0;
function write(content: string | Uint8Array, name = 'data.json'): string {
  const path = join(folder, `${files++}-${name}`);
  writeFileSync(path, content);
  return path;
}

async function failure(action: () => unknown): Promise<string> {
  try {
    await action();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('Nothing was thrown.');
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

async function valuesOf(path: string, options?: ReadOptions): Promise<unknown[]> {
  return (await all(readJsonItems(path, options))).map(({value}) => value);
}

function sampleOf(encoding: Encoding): Sample {
  if (!('sample' in encoding)) throw new Error(`dropped: ${encoding.dropped}`);
  return encoding.sample;
}

describe('examples/finetune/data: JSON files', () => {
  const blank = fc.constantFrom('', ' ', '\n', '\r\n\t');
  const objects = fc.array(fc.dictionary(fc.string({unit: 'binary'}), fc.jsonValue()), {maxLength: 6});

  it('reads lists back, whatever blanks and byte order marks are between', async () => {
    const property = fc.asyncProperty(
      fc.array(fc.jsonValue(), {maxLength: 6}),
      blank,
      fc.boolean(),
      async (values, space, mark) => {
        const items = values.map((value) => `${space}${JSON.stringify(value)}${space}`).join(',');
        const path = write(`${mark ? '\uFEFF' : ''}${space}[${items}${space}]${space}`);
        expect(await valuesOf(path)).to.deep.equal(JSON.parse(JSON.stringify(values)));
      },
    );
    await fc.assert(property, {seed: 1});
  });

  it('reads lines back, whatever their ends, and numbers them from 1', async () => {
    const ends = fc.constantFrom('\n', '\r\n', '\n\n', '\n \r\n');
    const property = fc.asyncProperty(objects, ends, fc.boolean(), fc.boolean(), async (values, end, mark, last) => {
      const text = values.map((value) => JSON.stringify(value)).join(end) + (last ? end : '');
      const path = write((mark ? '\uFEFF' : '') + text);
      const items = await all(readJsonItems(path));
      expect(items.map(({value}) => value)).to.deep.equal(JSON.parse(JSON.stringify(values)));
      const step = end.split('\n').length - 1;
      expect(items.map(({place}) => place)).to.deep.equal(values.map((_, i) => `line ${i * step + 1}`));
      expect(items.map(({index}) => index)).to.deep.equal(values.map((_, i) => i));
    });
    await fc.assert(property, {seed: 1});
  });

  it('reads items that span many pieces of the file', async () => {
    const values = Array.from({length: 5}, (_, i) => ({text: `${'€"\\,[{]}\n'.repeat(40_000)}${i}`}));
    expect(await valuesOf(write(JSON.stringify(values)))).to.deep.equal(values);
    expect(await valuesOf(write(values.map((value) => JSON.stringify(value)).join('\n')))).to.deep.equal(values);
  });

  it('reads a range of the items, and parses no others', async () => {
    const path = write('bad\n{"a": 1}\n{"a": 2}\nbad\n');
    expect(await valuesOf(path, {first: 1, end: 3})).to.deep.equal([{a: 1}, {a: 2}]);
    expect(await valuesOf(write('[x, 1, 2, 3, 4]'), {first: 3})).to.deep.equal([3, 4]);
  });

  it('reads nothing from empty files', async () => {
    for (const text of ['', ' \n\n', '[]', ' [ \n ] ', '\uFEFF']) {
      expect(await valuesOf(write(text)), JSON.stringify(text)).to.deep.equal([]);
    }
  });

  const bad: [text: string, place: string, why: RegExp, others: unknown[]][] = [
    ['{"a": 1}\n{"a": \n\n{"a": 3}', 'line 2', /this is not JSON/, [{a: 1}, {a: 3}]],
    ['\n\n{"a": 1}}\n{"a": 2}\n', 'line 3', /this is not JSON/, [{a: 2}]],
    ['[{"a": 1}, {a: 2}, {"a": 3}]', 'item 2', /this is not JSON/, [{a: 1}, {a: 3}]],
    ['[{"a": 1}, , {"a": 3}]', 'item 2', /a comma but no item/, [{a: 1}, {a: 3}]],
    ['[{"a": 1}, ]', 'item 2', /a comma but no item/, [{a: 1}]],
    ['[, {"a": 1}]', 'item 1', /a comma but no item/, [{a: 1}]],
    ['[{"a": 1}, {"a": "]', 'item 2', /the file ends within this item/, [{a: 1}]],
    ['[{"a": 1}', 'item 1', /the file ends within this item/, []],
    ['[{"a": 1},\n', 'item 2', /the file ends before the list does/, [{a: 1}]],
    ['[{"a": 1}] {"a": 2}, [3]', 'item 2', /text after the end/, [{a: 1}]],
    ['[{"a": 1 2}, {"a": "[}"}]', 'item 1', /this is not JSON/, [{a: '[}'}]],
  ];
  for (const [text, place, why, others] of bad) {
    it(`names what is wrong with ${JSON.stringify(text)}, or leaves it out`, async () => {
      const path = write(text);
      const message = await failure(() => valuesOf(path));
      expect(message).to.include(`${path}, ${place}: `).and.match(why).and.include('--skip-bad');
      const problems: string[] = [];
      expect(await valuesOf(path, {onBad: (problem) => problems.push(problem)})).to.deep.equal(others);
      expect(problems).to.have.length(1);
      expect(problems[0]).to.include(`${path}, ${place}: `).and.match(why);
    });
  }

  it('refuses devices and pipes, which may never end', async function () {
    if (process.platform === 'win32') this.skip();
    const pipe = join(folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    for (const file of ['/dev/zero', pipe]) {
      expect(await failure(() => all(readJsonItems(file)))).to.equal(`Cannot read the data ${file}: it is no file.`);
      expect(await failure(() => readJsonObject(file))).to.equal(`${file} must be a file, got no file.`);
    }
    const deep = join(folder, 'deep.json');
    writeFileSync(deep, `{"a": ${'['.repeat(5000)}${']'.repeat(5000)}}`);
    expect(await failure(() => readJsonObject(deep))).to.equal(
      `${deep} must nest at most 100 levels of JSON, got 5001.`,
    );
    expect(depthOf('{"a": "[[[\\"[", "b": [[1], {}]}')).to.equal(3);
    expect(await failure(() => readJsonObject(deep, 100))).to.include('must have at most 100 bytes, got 10007');
  });

  it('names files that cannot be read and text that is not UTF-8', async () => {
    expect(await failure(() => valuesOf(join(folder, 'none.json')))).to.match(
      /Cannot read the data .*none.json: there is no such file/,
    );
    expect(await failure(() => valuesOf(folder))).to.match(/it is a folder/);
    const latin = write(Uint8Array.from([...Buffer.from('{"a": "'), 0xe9, ...Buffer.from('"}')]));
    expect(await failure(() => valuesOf(latin))).to.match(/line 1: this is not UTF-8/);
    expect(await failure(() => valuesOf(write(Buffer.from('\uFEFF{"a": 1}', 'utf16le'))))).to.match(/not UTF-8/);
  });

  it('refuses an item that would fill the memory', async () => {
    const path = write('[1, "');
    truncateSync(path, 2 ** 28 + 2 ** 20); // A sparse file whose zeros never end the record.
    expect(await failure(() => valuesOf(path))).to.match(/longer than 256 MB \(after 1 whole ones\)/);
  });

  it('holds a small part of a long file', () => {
    // A separate process, so that its memory is that of reading alone.
    const reader = new URL('../../examples/finetune/data/json_stream.ts', import.meta.url).href;
    const script = `
      import {createWriteStream} from 'node:fs';
      import {once} from 'node:events';
      import {readJsonItems} from ${JSON.stringify(reader)};
      const [path, text] = [process.argv[1], 'x'.repeat(10_000)];
      const out = createWriteStream(path);
      out.write('[');
      for (let i = 0; i < 20_000; i++) if (!out.write((i ? ',' : '') + JSON.stringify({text}))) await once(out, 'drain');
      out.end(']');
      await once(out, 'close');
      const before = process.resourceUsage().maxRSS;
      let items = 0;
      for await (const {value} of readJsonItems(path)) items += value.text.length === 10_000 ? 1 : 0;
      console.log(JSON.stringify({items, grown: process.resourceUsage().maxRSS - before}));`;
    const args = [
      '--max-semi-space-size=2',
      '--import=tsx',
      '--input-type=module',
      '-e',
      script,
      join(folder, 'long.json'),
    ];
    const run = spawnSync(process.execPath, args, {
      encoding: 'utf8',
      cwd: fileURLToPath(new URL('../..', import.meta.url)),
    });
    expect(run.stderr).to.equal('');
    const {items, grown} = JSON.parse(run.stdout) as {items: number; grown: number};
    console.log(`      200 MB of JSON grew the process by ${(grown / 1024).toFixed(0)} MB`);
    expect(items).to.equal(20_000);
    expect(grown / 1024).to.be.below(50);
  });

  it('has a fingerprint that every byte changes', async () => {
    const [one, same, other] = [write('{"a": 1}'), write('{"a": 1}'), write('{"a": 2}')];
    expect(await sha256OfFile(one))
      .to.equal(await sha256OfFile(same))
      .and.match(/^[0-9a-f]{64}$/);
    expect(await sha256OfFile(one)).not.to.equal(await sha256OfFile(other));
  });
});

describe('examples/finetune/data: types of files', () => {
  it('names tables by their names or their first bytes, with the way to convert them', async () => {
    const csv = write('instruction,output\nGreet,Hello', 'table.CSV');
    expect(await failure(() => checkFileType(csv))).to.equal(
      `--data: ${csv} is a CSV file, which is not read. Give JSON lines (.jsonl) or a JSON list (.json), in Python: ` +
        `pandas.read_csv("${csv}").to_json("${csv.replace('.CSV', '.jsonl')}", orient="records", lines=True)`,
    );
    for (const name of ['table.parquet', 'table.json']) {
      expect(await failure(() => checkFileType(write('PAR1\0\0', name)))).to.match(/is a Parquet file.*read_parquet/);
    }
    for (const text of ['', '[]', '{"text": "PAR1"}']) checkFileType(write(text));
  });

  it('says what a file should be where its first item is no JSON', async () => {
    expect(await failure(() => valuesOf(write('instruction,output\nGreet,Hello')))).to.match(
      /line 1: this is not JSON: .*\. A file of data has one JSON object on each line, or is one JSON list\. Fix it/,
    );
    expect(await failure(() => valuesOf(write('{}\nx')))).to.match(/line 2: this is not JSON: [^.]*\. Fix it/);
  });
});

describe('examples/finetune/data: shuffled streams', () => {
  async function* stream(sizes: number[], pulled: {items: number; bytes: number}) {
    for (const [index, bytes] of sizes.entries()) {
      pulled.items++;
      pulled.bytes += bytes;
      yield {index, bytes};
    }
  }

  it('gives every item once, in an order of the seed, and holds no more than its limits', async () => {
    const sizes = fc.array(fc.integer({min: 1, max: 50}), {maxLength: 60});
    const property = fc.asyncProperty(sizes, fc.integer({min: 1, max: 20}), fc.integer(), async (bytes, most, seed) => {
      const limits = {items: most, bytes: 300};
      const pulled = {items: 0, bytes: 0};
      const order: number[] = [];
      for await (const item of shuffleStream(stream(bytes, pulled), limits, uniform(seed))) {
        order.push(item.index);
        pulled.items--;
        pulled.bytes -= item.bytes;
        expect(pulled.items).to.be.at.most(most);
        expect(pulled.bytes).to.be.at.most(300);
      }
      expect([...order].sort((a, b) => a - b)).to.deep.equal(bytes.map((_, i) => i));
      const again = await all(shuffleStream(stream(bytes, {items: 0, bytes: 0}), limits, uniform(seed)));
      expect(again.map(({index}) => index)).to.deep.equal(order);
    });
    await fc.assert(property, {seed: 1});
  });

  it('is even where all items fit', async () => {
    const counts = new Map<string, number>();
    const random = uniform(1);
    for (let i = 0; i < 6000; i++) {
      const order = await all(shuffleStream(stream([1, 1, 1], {items: 0, bytes: 0}), {items: 3, bytes: 3}, random));
      const key = order.map(({index}) => index).join('');
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    expect(counts.size).to.equal(6);
    for (const count of counts.values()) expect(count).to.be.within(850, 1150);
  });
});

describe('examples/finetune/data: records', () => {
  const asked = [user('Why?')];
  const twice = [user('Why?'), assistant('So.'), user('How?'), assistant('Thus.')];
  const conversations: [name: string, record: object, messages: Message[]][] = [
    ['Alpaca', {instruction: 'Add', input: '', output: 'Yes'}, [user('Add'), assistant('Yes')]],
    ['Alpaca with input', {instruction: 'Add', input: '1 2', output: '3'}, [user('Add\n1 2'), assistant('3')]],
    [
      'Alpaca with system and history',
      {instruction: 'c', output: 'd', system: 's', history: [['a', 'b']]},
      [system('s'), user('a'), assistant('b'), user('c'), assistant('d')],
    ],
    ['messages', {messages: twice}, twice],
    [
      'messages of parts',
      {messages: [{role: 'user', content: [{type: 'text', text: 'Why?'}]}, assistant('So.')]},
      twice.slice(0, 2),
    ],
    [
      'ShareGPT',
      {
        conversations: [
          {from: 'human', value: 'Why?'},
          {from: 'gpt', value: 'So.'},
        ],
        system: 'Be kind',
      },
      [system('Be kind'), ...twice.slice(0, 2)],
    ],
    [
      'ShareGPT tools',
      {
        conversations: [
          {from: 'observation', value: 'x'},
          {from: 'function_call', value: 'y'},
        ],
      },
      [{role: 'tool', content: 'x'}, assistant('y')],
    ],
    ['prompt and completion', {prompt: 'Why?', completion: 'So.'}, twice.slice(0, 2)],
    ['prompt and completion of messages', {prompt: twice.slice(0, 3), completion: [twice[3]]}, twice],
    ['messages beside a prompt', {prompt: 'x', prompt_id: '1', messages: twice}, twice],
  ];
  for (const [name, record, messages] of conversations) {
    it(`reads ${name}`, () => expect(parseRecord(record)).to.deep.equal({kind: 'conversation', messages}));
  }

  it('reads plain texts, but not in place of a conversation beside them', () => {
    expect(parseRecord({text: 'Why?'})).to.deep.equal({kind: 'text', text: 'Why?'});
    for (const [, record, messages] of conversations) {
      expect(parseRecord({...record, text: 'x'})).to.deep.equal({kind: 'conversation', messages});
    }
  });

  it('reads pairs of plain texts', () => {
    const pair = {chosen: 'Why? So.', rejected: 'Why? No.'};
    expect(parseRecord(pair)).to.deep.equal({kind: 'texts', texts: ['Why? So.', 'Why? No.']});
  });

  const compared = (prompt: Message[], answers = ['So.', 'No.'], tied = 0) => ({
    kind: 'comparison',
    prompt,
    answers,
    tied,
  });
  const comparisons: [name: string, record: object, expected: object][] = [
    ['texts', {prompt: 'Why?', chosen: 'So.', rejected: 'No.'}, compared(asked)],
    [
      'texts with a system message',
      {system: 's', question: 'Why?', chosen: 'So.', rejected: 'No.'},
      compared([system('s'), ...asked]),
    ],
    ['an instruction', {instruction: 'Why?', input: '', chosen: 'So.', rejected: 'No.'}, compared(asked)],
    ['messages', {prompt: asked, chosen: [assistant('So.')], rejected: [assistant('No.')]}, compared(asked)],
    [
      'whole conversations',
      {chosen: [...asked, assistant('So.')], rejected: [...asked, assistant('No.')]},
      compared(asked),
    ],
    [
      'whole conversations beside their prompt',
      {
        prompt: 'Why?',
        chosen: [system('s'), ...asked, assistant('So.')],
        rejected: [system('s'), ...asked, assistant('No.')],
      },
      compared([system('s'), ...asked]),
    ],
    [
      "LLaMA-Factory's",
      {
        conversations: [{from: 'human', value: 'Why?'}],
        chosen: {from: 'gpt', value: 'So.'},
        rejected: {from: 'gpt', value: 'No.'},
      },
      compared(asked),
    ],
    ['a list, best first', {prompt: 'Why?', answers: ['So.', 'No.', 'Eh.']}, compared(asked, ['So.', 'No.', 'Eh.'])],
    [
      'a list with ranks',
      {prompt: 'Why?', responses: ['a', 'b', 'c'], rank: [3, 1, 2]},
      compared(asked, ['b', 'c', 'a']),
    ],
    [
      'a list with scores',
      {prompt: 'Why?', answers: ['a', 'b', 'c'], scores: [0.5, -1, 2]},
      compared(asked, ['c', 'a', 'b']),
    ],
    [
      'a list of objects with scores, two of them equal',
      {
        messages: asked,
        answers: [
          {text: 'a', score: 1},
          {text: 'b', score: 2},
          {text: 'c', score: 1},
        ],
      },
      compared(asked, ['b', 'a'], 1),
    ],
  ];
  for (const [name, record, expected] of comparisons) {
    it(`reads comparisons of ${name}`, () => expect(parseRecord(record)).to.deep.equal(expected));
  }

  const wrong: [record: unknown, why: RegExp][] = [
    [[1, 2], /must be a JSON object, got \[1,2\]/],
    [null, /must be a JSON object, got null/],
    ['text', /must be a JSON object, got "text"/],
    [{txt: 'x', source: 'y'}, /unknown shape, with the fields txt, source\. Known are/],
    [{text: 3}, /text must be a text, got 3/],
    [{instruction: 'x', output: 3}, /output must be a text, got 3/],
    [{output: 'x'}, /instruction must be a text, got nothing/],
    [{instruction: 'x', output: 'y', history: [['a']]}, /history\[0\]\[0\] must be a text/],
    [{messages: []}, /messages must be a list of messages, got \[\]/],
    [{messages: 'Hi'}, /messages must be a list of messages, got "Hi"/],
    [{messages: [user('a'), {role: 'bot', content: 'b'}]}, /messages\[1\]\.role must be one of system, .* got "bot"/],
    [{messages: [{role: 'constructor', content: 'b'}]}, /messages\[0\]\.role must be one of/],
    [{messages: [{role: 'user'}]}, /messages\[0\]\.content must be a text, got nothing/],
    [{messages: [{role: 'user', content: [{type: 'image'}]}]}, /messages\[0\]\.content\[0\]\.text must be a text/],
    [{messages: ['Hi']}, /messages\[0\] must be \{role, content\} or \{from, value\}, got "Hi"/],
    [{conversations: [{from: 'human', content: 'x'}]}, /conversations\[0\]\.value must be a text/],
    [{prompt: 'Why?', chosen: 'So.'}, /rejected must be \{role, content\}/],
    [{system: 's', chosen: 'So.', rejected: 'No.'}, /a comparison needs a prompt/],
    [{chosen: 'So.'}, /rejected must be \{role, content\}/],
    [{prompt: twice, chosen: 'So.', rejected: 'No.'}, /the prompt ends with an answer/],
    [
      {prompt: 'Why?', chosen: [user('So.')], rejected: 'No.'},
      /chosen must end with a message of the assistant, got user/,
    ],
    [
      {chosen: [user('a'), assistant('b')], rejected: [user('c'), assistant('d')]},
      /rejected must follow the same messages as chosen/,
    ],
    [{prompt: 'Why?', answers: ['So.']}, /answers must be a list of two or more answers, got \["So\."\]/],
    [
      {prompt: 'Why?', answers: ['a', 'b'], ranks: [1]},
      /ranks must be numbers, one for each of the 2 answers, got \[1\]/,
    ],
    [{prompt: 'Why?', answers: ['a', {text: 'b', score: 1}]}, /score of every one of answers must be numbers/],
    [{prompt: 'Why?', answers: [{label: 'a'}, 'b']}, /answers\[0\]\.role must be a text/],
  ];
  for (const [record, why] of wrong) {
    it(`names what is wrong with ${JSON.stringify(record)}`, async () => {
      expect(await failure(() => parseRecord(record))).to.match(why);
    });
  }

  it('reads or refuses anything, with an Error of one line', () => {
    const field = fc.constantFrom(
      'prompt',
      'chosen',
      'rejected',
      'messages',
      'answers',
      'scores',
      'instruction',
      'output',
      'history',
    );
    const text = fc.oneof(
      fc.jsonValue({maxDepth: 3}),
      fc.array(fc.record({role: fc.constantFrom('user', 'assistant'), content: fc.string()})),
    );
    fc.assert(
      fc.property(fc.dictionary(field, text), (record) => {
        try {
          expect(parseRecord(record).kind).to.be.oneOf(['conversation', 'comparison']);
        } catch (error) {
          expect(error).to.be.instanceOf(Error).and.not.instanceOf(TypeError);
          expect((error as Error).message).not.to.match(/\n/);
        }
      }),
      {seed: 1, numRuns: 500},
    );
  });
});

describe('examples/finetune/data: tokenizer', () => {
  const config = tinyTokenizerConfig();
  const make = (json: Record<string, unknown>, other: Record<string, unknown> = config, size = TINY_VOCABULARY) =>
    new ChatTokenizer(json, other, size, 'tiny');

  it('gives texts back', () => {
    const texts = fc.string({unit: 'grapheme'});
    const property = fc.property(texts, (text) => {
      expect(tokenizer.decode(tokenizer.encode(text))).to.equal(text);
    });
    fc.assert(property, {seed: 1});
    expect(tokenizer.eosTokenId).to.equal(2);
    expect(tokenizer.decode(tokenizer.encode('<|im_start|>Hi .<|im_end|>'))).to.equal('Hi .');
    expect([1, 2, 3].map((id) => tokenizer.isSpecial(id))).to.deep.equal([true, true, false]);
  });

  it('renders the template of the model', () => {
    const text = tokenizer.chat([user('Hi')], {addGenerationPrompt: true});
    expect(text).to.equal(
      '<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n',
    );
    const named = {
      ...config,
      chat_template: [
        {name: 'rag', template: 'x'},
        {name: 'default', template: '{{ bos_token }}{{ eos_token }}'},
      ],
    };
    expect(make(tinyTokenizerJson(), named).chat([user('Hi')])).to.equal('<|im_start|><|im_end|>');
    const dated = {...config, chat_template: '{{ date_string }}', eos_token: {content: '<|im_end|>', special: true}};
    expect(make(tinyTokenizerJson(), dated).chat([user('Hi')])).to.equal('26 Jul 2024');
  });

  it('writes messages on lines where the model has no template', () => {
    const plain = make(tinyTokenizerJson(), {eos_token: '<|endoftext|>'});
    expect(plain.chat([user('Hi'), assistant('Ho')])).to.equal('Hi\nHo<|endoftext|>');
    const sample = sampleOf(
      encodeConversation(0, [user('Hi'), assistant('Ho')], plain, {maxTokens: 99, tooLong: 'drop'}),
    );
    expect(plain.decode([...sample.tokens])).to.equal('Hi\nHo');
    expect([...sample.labels].slice(-3)).to.deep.equal([...plain.encode('Ho'), 0]);
  });

  it('refuses tokenizers of other models, and damaged ones', async () => {
    expect(await failure(() => make(tinyTokenizerJson(), config, 100))).to.match(
      /The tokenizer of tiny has a token 261, but the model knows only 100: it belongs to another model/,
    );
    expect(await failure(() => make(tinyTokenizerJson(), {...config, eos_token: '</s>'}))).to.match(
      /The eos_token "<\/s>" of tiny is not among/,
    );
    expect(await failure(() => make(tinyTokenizerJson(), {}))).to.match(/neither a chat template nor an eos_token/);
    expect(await failure(() => make({}, config))).to.match(/^The tokenizer of tiny fails: /);
    expect(await failure(() => make(tinyTokenizerJson(), {...config, chat_template: '{% if'}))).to.match(
      /^The chat template of tiny fails: /,
    );
    const alternate = make(tinyTokenizerJson(), {
      ...config,
      chat_template: "{{ raise_exception('Roles must alternate') }}",
    });
    expect(await failure(() => alternate.chat([user('a'), user('b')]))).to.match(
      /given messages of user, user, of tiny fails: Roles must alternate/,
    );
  });

  it('refuses a text whose tokens the model does not know', async () => {
    const json = tinyTokenizerJson();
    (json.added_tokens as object[]).push({id: 999, content: '<pad>', special: true});
    expect(make(json).encode('ab')).to.have.length(1);
    expect(await failure(() => make(json).encode('<pad>'))).to.match(/has a token 999, but the model knows only 262/);
  });
});

describe('examples/finetune/data: conversations as tokens', () => {
  const options = {maxTokens: 10_000, tooLong: 'drop'} as const;
  const END = 2;
  const texts = fc.string({unit: fc.constantFrom('a', 'b', ' ', '\n', 'é', '<'), maxLength: 8});
  const answers = texts.filter((text) => text.trim() !== '');
  const turns = fc.array(fc.tuple(texts, answers), {minLength: 1, maxLength: 5});
  const conversations = fc
    .tuple(fc.option(texts, {nil: null}), turns)
    .map(([first, pairs]) => [
      ...(first === null ? [] : [system(first)]),
      ...pairs.flatMap(([question, answer]) => [user(question), assistant(answer)]),
    ]);

  it('labels the tokens of the answers with their end tokens, and no others', () => {
    const property = fc.property(conversations, (messages) => {
      const {
        tokens,
        labels,
        positions,
        parts,
        answers: ranges,
      } = sampleOf(encodeConversation(7, messages, tokenizer, options));
      const wanted = messages
        .filter(({role}) => role === 'assistant')
        .flatMap(({content}) => [...tokenizer.encode(content), END]);
      expect([...labels].filter((label) => label !== IGNORED)).to.deep.equal(wanted);
      expect([...positions]).to.deep.equal([...tokens].map((_, i) => i));
      labels.forEach((label, i) => expect(label).to.be.oneOf([IGNORED, i + 1 < tokens.length ? tokens[i + 1] : END]));
      expect([parts, ranges]).to.deep.equal([[tokens.length], []]);
      // The sample leaves out the last end token and the line break after it: neither predicts anything.
      expect(tokenizer.decode([...tokens])).to.equal(
        tokenizer.decode(tokenizer.encode(tokenizer.chat(messages).replace(/<\|im_end\|>\n$/, ''))),
      );
    });
    fc.assert(property, {seed: 1, numRuns: 300});
  });

  it('encodes prompts as generation does: no token spans the border to an answer', () => {
    const messages = [user('Hi'), assistant('\n\n\nHo')];
    const prompt = tokenizer.encode(tokenizer.chat(messages.slice(0, 1), {addGenerationPrompt: true}));
    const {tokens, labels} = sampleOf(encodeConversation(0, messages, tokenizer, options));
    expect([...tokens].slice(0, prompt.length)).to.deep.equal(prompt);
    expect([...labels].slice(prompt.length - 1)).to.deep.equal([...tokenizer.encode('\n\n\nHo'), END]);
    // Encoded as a whole, the line breaks of the prompt and of the answer share a token.
    expect(tokenizer.encode(tokenizer.chat(messages))).to.have.length(tokens.length + 1);
  });

  it('does not mark the start of a text at the start of an answer, as SentencePiece tokenizers would', () => {
    const characters = ['<|im_end|>', '▁', ...Array.from('abcdefghijklmnopqrstuvwxyz|')];
    const json = {
      ...tinyTokenizerJson(),
      added_tokens: [{id: 0, content: '<|im_end|>', normalized: false, special: true}],
      normalizer: {
        type: 'Sequence',
        normalizers: [
          {type: 'Prepend', prepend: '▁'},
          {type: 'Replace', pattern: {String: ' '}, content: '▁'},
        ],
      },
      pre_tokenizer: null,
      decoder: {type: 'Replace', pattern: {String: '▁'}, content: ' '},
      model: {type: 'BPE', vocab: Object.fromEntries(characters.map((token, id) => [token, id])), merges: []},
    };
    const template = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}{{ '|' }}{% endif %}{% endfor %}";
    const marking = new ChatTokenizer(json, {eos_token: '<|im_end|>', chat_template: template}, 99, 'marking');
    expect(marking.encode('yes')).to.deep.equal(['▁', 'y', 'e', 's'].map((text) => characters.indexOf(text)));
    const wanted = ['y', 'e', 's', '<|im_end|>'].map((text) => characters.indexOf(text));
    const {labels} = sampleOf(encodeConversation(0, [user('ok'), assistant('yes')], marking, options));
    expect([...labels].filter((label) => label !== IGNORED)).to.deep.equal(wanted);
    const pair = {prompt: [user('ok')], answers: ['yes', 'no']};
    const {tokens} = sampleOf(encodeComparison(0, pair, marking, {...options, objective: 'rm', layout: 'shared'}));
    expect([...tokens].slice(4, 8)).to.deep.equal(wanted);
  });

  it('leaves out what follows the last answer, and conversations without one', () => {
    const answered = [user('a'), assistant('b')];
    const expected = encodeConversation(0, answered, tokenizer, options);
    expect(encodeConversation(0, [...answered, user('c')], tokenizer, options)).to.deep.equal(expected);
    expect(encodeConversation(0, [...answered, user('c'), assistant(' \n')], tokenizer, options)).to.deep.equal(
      expected,
    );
    expect(encodeConversation(0, [user('a')], tokenizer, options)).to.deep.equal({dropped: 'no answer'});
    expect(encodeConversation(0, [user('a'), assistant('')], tokenizer, options)).to.deep.equal({dropped: 'no answer'});
  });

  it('only reads an answer that nobody asked for', async () => {
    const {sample, unlabelledAnswers} = encodeConversation(
      0,
      [assistant('Hi'), user('a'), assistant('b')],
      tokenizer,
      options,
    ) as Exclude<Encoding, {dropped: string}>;
    expect(unlabelledAnswers).to.equal(1);
    expect([...sample.labels].filter((label) => label !== IGNORED)).to.deep.equal([...tokenizer.encode('b'), END]);
    const alone = () => encodeConversation(0, [assistant('Hi')], tokenizer, options);
    expect(await failure(alone)).to.match(/needs a message before its answer/);
  });

  it('only reads earlier answers that the template renders otherwise later on', async () => {
    const thinking =
      "{% for message in messages %}{{ '<|im_start|>' + message.role + ':' }}" +
      "{% if message.role == 'assistant' and not loop.last %}{{ message.content.split('/')[1] }}{% else %}{{ message.content }}{% endif %}" +
      "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}";
    const thinker = tinyTokenizer({...tinyTokenizerConfig(), chat_template: thinking});
    const messages = [user('a'), assistant('x/b'), user('c'), assistant('y/d')];
    const encoding = encodeConversation(0, messages, thinker, options) as Exclude<Encoding, {dropped: string}>;
    expect(encoding.unlabelledAnswers).to.equal(1);
    expect([...encoding.sample.labels].filter((label) => label !== IGNORED)).to.deep.equal([
      ...thinker.encode('y/d'),
      END,
    ]);
    expect(thinker.decode([...encoding.sample.tokens])).to.equal('user:aassistant:buser:cassistant:y/d');
    const silent = tinyTokenizer({...tinyTokenizerConfig(), chat_template: "{{ messages[0]['content'] }}"});
    const lost = /The chat template of tiny does not write an answer right behind its prompt/;
    expect(await failure(() => encodeConversation(0, messages, silent, options))).to.match(lost);
    const pair = {prompt: [user('a')], answers: ['b', 'c']};
    const compare = () => encodeComparison(0, pair, silent, {...options, objective: 'dpo', layout: 'shared'});
    expect(await failure(compare)).to.match(lost);
  });

  it('ends answers of templates that write no end token, and of those that write no line break after it', () => {
    const labelsOf = (template: string): number[] => {
      const other = tinyTokenizer({...tinyTokenizerConfig(), chat_template: template});
      const {labels} = sampleOf(encodeConversation(0, [user('a'), assistant('b')], other, options));
      return [...labels].filter((label) => label !== IGNORED);
    };
    const wanted = [...tokenizer.encode('b'), END];
    expect(
      labelsOf("{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}{{ '|' }}{% endif %}{% endfor %}"),
    ).to.deep.equal(wanted);
    expect(labelsOf("{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}")).to.deep.equal(wanted);
    const words = tokenizer.encode('b<|im_end|> and so on');
    expect(labelsOf("{% for m in messages %}{{ m.content + '<|im_end|> and so on' }}{% endfor %}")).to.deep.equal([
      ...words,
      END,
    ]);
  });

  it('cuts or drops long ones: never longer than allowed, and every label is still the next token', () => {
    const property = fc.property(conversations, fc.integer({min: 1, max: 120}), (messages, maxTokens) => {
      const whole = sampleOf(encodeConversation(0, messages, tokenizer, options));
      const cut = encodeConversation(0, messages, tokenizer, {maxTokens, tooLong: 'cut'});
      const dropped = encodeConversation(0, messages, tokenizer, {maxTokens, tooLong: 'drop'});
      if (whole.tokens.length <= maxTokens) {
        expect(cut).to.deep.equal({sample: whole, cut: false, unlabelledAnswers: 0});
        expect(dropped).to.deep.equal(cut);
        return;
      }
      expect(dropped).to.deep.equal({dropped: 'too long'});
      const {tokens, labels, positions} = sampleOf(cut);
      expect((cut as {cut: boolean}).cut).to.equal(true);
      expect(tokens.length).to.be.at.most(maxTokens);
      expect(labels.some((label) => label !== IGNORED)).to.equal(true);
      expect([...positions]).to.deep.equal([...tokens].map((_, i) => i));
      labels.slice(0, -1).forEach((label, i) => expect(label).to.be.oneOf([IGNORED, tokens[i + 1]]));
      expect(labels.at(-1)).not.to.equal(IGNORED);
    });
    fc.assert(property, {seed: 1, numRuns: 300});
  });

  it('leaves out as few of the oldest turns as it can, then the start of the prompt, then the end of the answer', () => {
    const messages = [system('s'), user('a'), assistant('b'), user('c'), assistant('d'), user('e'), assistant('f')];
    const texts = (maxTokens: number) => {
      const {tokens} = sampleOf(encodeConversation(0, messages, tokenizer, {maxTokens, tooLong: 'cut'}));
      return tokenizer.decode([...tokens]).replaceAll(/system|user|assistant|\n/g, '');
    };
    const whole = sampleOf(encodeConversation(0, messages, tokenizer, options)).tokens.length;
    const turn =
      tokenizer.encode(tokenizer.chat(messages.slice(0, 3))).length -
      tokenizer.encode(tokenizer.chat([messages[0]])).length;
    expect(texts(whole)).to.equal('sabcdef');
    expect(texts(whole - 1)).to.equal('scdef');
    expect(texts(whole - turn - 1)).to.equal('sef');
    const long = [user('q'.repeat(100)), assistant('r'.repeat(100))];
    const {tokens, labels} = sampleOf(encodeConversation(0, long, tokenizer, {maxTokens: 80, tooLong: 'cut'}));
    const prompt = tokenizer.encode(tokenizer.chat(long.slice(0, 1), {addGenerationPrompt: true}));
    expect([...tokens].slice(0, 40)).to.deep.equal(prompt.slice(-41, -1));
    expect(tokenizer.decode([...labels].filter((label) => label !== IGNORED))).to.equal('r'.repeat(40));
    expect(labels.at(-1)).to.equal(tokenizer.encode('r')[0]);
  });
});

describe('examples/finetune/data: comparisons as tokens', () => {
  const options = {maxTokens: 10_000, tooLong: 'drop', layout: 'shared'} as const;
  const END = 2;
  const prompt = [user('Hi')];
  const asked = tokenizer.encode(tokenizer.chat(prompt, {addGenerationPrompt: true}));
  const answered = (text: string): number[] => [...tokenizer.encode(text), END];
  const texts = fc
    .string({unit: fc.constantFrom('a', 'b', ' ', '\n', 'é'), maxLength: 8})
    .filter((text) => text.trim() !== '');
  const lists = fc.array(texts, {minLength: 2, maxLength: 4});

  it("repeats the prompt's last token before each answer for DPO", () => {
    const property = fc.property(lists, (answers) => {
      const sample = sampleOf(encodeComparison(3, {prompt, answers}, tokenizer, {...options, objective: 'dpo'}));
      const [shared, last] = [asked.length - 1, asked.at(-1)!];
      const spoken = answers.map(answered);
      expect([...sample.tokens]).to.deep.equal([
        ...asked.slice(0, -1),
        ...spoken.flatMap((ids) => [last, ...ids.slice(0, -1)]),
      ]);
      const counted = (start: number, count: number) => Array.from({length: count}, (_, i) => start + i);
      expect([...sample.positions]).to.deep.equal([
        ...counted(0, shared),
        ...spoken.flatMap(({length}) => counted(shared, length)),
      ]);
      expect([...sample.labels]).to.deep.equal([...asked.slice(0, -1).map(() => IGNORED), ...spoken.flat()]);
      expect(sample.parts).to.deep.equal([shared, ...spoken.map(({length}) => length)]);
      sample.answers.forEach(({start, end}, i) =>
        expect([...sample.labels.slice(start, end)]).to.deep.equal(spoken[i]),
      );
      expect(sample.id).to.equal(3);
    });
    fc.assert(property, {seed: 1});
  });

  it('puts answers with their end tokens behind the prompt for RM', () => {
    const property = fc.property(lists, (answers) => {
      const sample = sampleOf(encodeComparison(0, {prompt, answers}, tokenizer, {...options, objective: 'rm'}));
      expect([...sample.tokens]).to.deep.equal([...asked, ...answers.flatMap(answered)]);
      expect(sample.labels.every((label) => label === IGNORED)).to.equal(true);
      sample.answers.forEach(({start, end}, i) => {
        expect([...sample.tokens.slice(start, end)]).to.deep.equal(answered(answers[i]));
        expect(sample.positions[start]).to.equal(asked.length);
        expect(sample.tokens[end - 1]).to.equal(END);
      });
      expect(sample.parts).to.deep.equal([asked.length, ...answers.map((answer) => answered(answer).length)]);
    });
    fc.assert(property, {seed: 1});
  });

  it('has the same rows in the separate layout, each answer with its own prompt', () => {
    for (const objective of ['dpo', 'rm'] as const) {
      const property = fc.property(lists, (answers) => {
        const encode = (layout: 'shared' | 'separate') =>
          sampleOf(encodeComparison(0, {prompt, answers}, tokenizer, {...options, objective, layout}));
        const [shared, separate] = [encode('shared'), encode('separate')];
        const [question] = shared.parts;
        expect(separate.parts).to.deep.equal([0, ...shared.parts.slice(1).map((length) => question + length)]);
        separate.answers.forEach(({start, end}, i) => {
          const same = shared.answers[i];
          for (const field of ['tokens', 'positions', 'labels'] as const) {
            const text = [...shared[field].slice(0, question), ...shared[field].slice(same.start, same.end)];
            expect([...separate[field].slice(start - question, end)]).to.deep.equal(text);
          }
        });
      });
      fc.assert(property, {seed: 1});
    }
  });

  it('leaves out comparisons with an empty answer', () => {
    const encode = (answers: string[]) =>
      encodeComparison(0, {prompt, answers}, tokenizer, {...options, objective: 'dpo'});
    expect(encode([])).to.deep.equal({dropped: 'no answer'});
    expect(encode(['a', ' '])).to.deep.equal({dropped: 'no answer'});
  });

  it('cuts long ones as PaddleNLP does: last tokens of the prompt, answers in proportion', () => {
    const long = {prompt: [user('q'.repeat(200))], answers: ['x'.repeat(89), 'y'.repeat(29)]};
    const question = tokenizer.encode(tokenizer.chat(long.prompt, {addGenerationPrompt: true}));
    const cut = {maxTokens: 80, tooLong: 'cut', layout: 'shared'} as const;
    const dpo = sampleOf(encodeComparison(0, long, tokenizer, {...cut, objective: 'dpo'}));
    expect(dpo.parts).to.deep.equal([40, 30, 10]); // Answers of 90 and 30 tokens, with their end tokens, share 40 rows.
    expect([...dpo.tokens.slice(0, 41)]).to.deep.equal(question.slice(-41));
    expect(dpo.tokens[70]).to.equal(question.at(-1));
    expect(tokenizer.decode([...dpo.labels].filter((label) => label !== IGNORED))).to.equal(
      'x'.repeat(30) + 'y'.repeat(10),
    );
    const rm = sampleOf(encodeComparison(0, long, tokenizer, {...cut, objective: 'rm'}));
    expect(rm.parts).to.deep.equal([40, 30, 10]);
    expect([...rm.tokens.slice(0, 40)]).to.deep.equal(question.slice(-40));
    const separate = sampleOf(encodeComparison(0, long, tokenizer, {...cut, objective: 'dpo', layout: 'separate'}));
    expect(separate.parts).to.deep.equal([0, 50, 30]); // The prompt is there twice, with 20 tokens each.
    const short = {...long, answers: ['x'.repeat(9), 'y'.repeat(9)]};
    expect(sampleOf(encodeComparison(0, short, tokenizer, {...cut, objective: 'rm'})).parts).to.deep.equal([
      60, 10, 10,
    ]);
  });

  it('never gives more than allowed, nor an answer without tokens', () => {
    const layouts = fc.constantFrom('shared' as const, 'separate' as const);
    const objectives = fc.constantFrom('dpo' as const, 'rm' as const);
    const property = fc.property(
      lists,
      fc.integer({min: 1, max: 90}),
      layouts,
      objectives,
      (answers, maxTokens, layout, objective) => {
        const encoding = encodeComparison(0, {prompt, answers}, tokenizer, {
          maxTokens,
          tooLong: 'cut',
          layout,
          objective,
        });
        if ('dropped' in encoding) {
          expect(maxTokens).to.be.below(40);
          expect(encoding.dropped).to.equal('too long');
          return;
        }
        const {tokens, labels, positions, parts, answers: ranges} = encoding.sample;
        expect(tokens.length).to.be.at.most(maxTokens);
        expect([labels.length, positions.length, parts.reduce((a, b) => a + b)]).to.deep.equal([
          tokens.length,
          tokens.length,
          tokens.length,
        ]);
        ranges.forEach(({start, end}) => expect(end).to.be.above(start));
        expect(ranges).to.have.length(answers.length);
      },
    );
    fc.assert(property, {seed: 1, numRuns: 300});
  });

  it('leaves out the oldest turns of a long prompt first', () => {
    const turns = [system('s'), user('a'.repeat(50)), assistant('b'), user('c')];
    const encode = (messages: Message[], maxTokens: number) =>
      encodeComparison(0, {prompt: messages, answers: ['x', 'y']}, tokenizer, {
        ...options,
        objective: 'rm',
        maxTokens,
        tooLong: 'cut',
      });
    const expected = sampleOf(encode([turns[0], turns[3]], 1000));
    expect(sampleOf(encode(turns, expected.tokens.length))).to.deep.equal(expected);
  });
});

/** A sample of the given parts; its tokens differ from those of other samples. */
function madeOf(id: number, parts: number[]): Sample {
  const length = parts.reduce((a, b) => a + b);
  const ends = parts.map((_, i) => parts.slice(0, i + 1).reduce((a, b) => a + b));
  const starts = ends.map((end, i) => end - parts[i]);
  const question = parts.length === 1 ? 0 : parts[0];
  const partOf = Array.from({length}, (_, i) => ends.findIndex((end) => i < end));
  return {
    id,
    tokens: Int32Array.from({length}, (_, i) => 1000 * (id + 1) + i),
    positions: Int32Array.from({length}, (_, i) => (partOf[i] === 0 ? i : question + i - starts[partOf[i]])),
    labels: Int32Array.from({length}, (_, i) => (i % 3 === 0 ? IGNORED : i)),
    parts,
    answers: parts.length === 1 ? [] : ends.slice(1).map((end, i) => ({start: starts[i + 1], end})),
  };
}

describe('examples/finetune/data: plain texts as tokens', () => {
  const END = 2;
  const keep = {maxTokens: 100, tooLong: 'drop'} as const;
  const ids = (text: string): number[] => tokenizer.encode(text);
  /** Adds the start token as Llama's tokenizers do. */
  const starting = (): ChatTokenizer => {
    const token = '<|im_start|>';
    const processor = {
      type: 'TemplateProcessing',
      single: [{SpecialToken: {id: token, type_id: 0}}, {Sequence: {id: 'A', type_id: 0}}],
      pair: [],
      special_tokens: {[token]: {id: token, ids: [1], tokens: [token]}},
    };
    const json = {...tinyTokenizerJson(), post_processor: processor};
    return new ChatTokenizer(json, tinyTokenizerConfig(), TINY_VOCABULARY, 'starting');
  };

  it('learn every token and the end token, behind the start token where the tokenizer adds one', () => {
    const plain = sampleOf(encodeText(4, 'ab a', tokenizer, keep));
    expect([...plain.tokens]).to.deep.equal(ids('ab a'));
    expect([...plain.labels]).to.deep.equal([...ids('ab a').slice(1), END]);
    expect(plain).to.deep.include({id: 4, parts: [ids('ab a').length], answers: []});
    const started = sampleOf(encodeText(4, 'ab a', starting(), keep));
    expect([...started.tokens]).to.deep.equal([1, ...ids('ab a')]);
    expect([...started.labels]).to.deep.equal([...ids('ab a'), END]);
  });

  it('lose their end where they are too long, and learn the token that follows', () => {
    const [tokens, short] = [ids('xyz ab ab'), {maxTokens: 3, tooLong: 'cut'} as const];
    const encoding = encodeText(0, 'xyz ab ab', tokenizer, short);
    expect(encoding).to.deep.include({cut: true});
    expect([...sampleOf(encoding).tokens]).to.deep.equal(tokens.slice(0, 3));
    expect([...sampleOf(encoding).labels]).to.deep.equal(tokens.slice(1, 4));
    expect(encodeText(0, 'xyz ab ab', tokenizer, {...short, tooLong: 'drop'})).to.deep.equal({dropped: 'too long'});
    expect(encodeText(0, ' \n', tokenizer, keep)).to.deep.equal({dropped: 'no answer'});
  });

  it('are compared behind the tokens that both start with', () => {
    const pair = {texts: ['Why? ab', 'Why? ax'] as [string, string]};
    const dpo = {...keep, objective: 'dpo', layout: 'shared'} as const;
    const asked = ids('Why?');
    const answers = ['Why? ab', 'Why? ax'].map((text) => [...ids(text), END]);
    const shared = answers[0].findIndex((id, i) => id !== answers[1][i]);
    expect(shared).to.be.at.least(asked.length);
    const {tokens, labels, parts} = sampleOf(encodeTextPair(0, pair, tokenizer, dpo));
    const [question, last] = [answers[0].slice(0, shared - 1), answers[0][shared - 1]];
    const [one, other] = answers.map((answer) => answer.slice(shared));
    expect([...tokens]).to.deep.equal([...question, last, ...one.slice(0, -1), last, ...other.slice(0, -1)]);
    expect([...labels]).to.deep.equal([...question.map(() => IGNORED), ...one, ...other]);
    expect(parts).to.deep.equal([question.length, one.length, other.length]);

    const scored = sampleOf(encodeTextPair(0, pair, tokenizer, {...dpo, objective: 'rm'}));
    expect([...scored.tokens]).to.deep.equal([...question, last, ...one, ...other]);
  });

  it('are compared behind the start token where they start differently; equal ones cannot be', async () => {
    const rm = {...keep, objective: 'rm', layout: 'shared'} as const;
    const encode = (...texts: [string, string]) => encodeTextPair(0, {texts}, tokenizer, rm);
    expect([...sampleOf(encode('x', 'y')).tokens]).to.deep.equal([1, ...ids('x'), END, ...ids('y'), END]);
    const longer = sampleOf(encode('x', 'xy'));
    expect([...longer.tokens]).to.deep.equal([...ids('x'), END, ...ids('y'), END]);
    expect(encode('x', ' ')).to.deep.equal({dropped: 'no answer'});
    expect(await failure(() => encode('x', 'x'))).to.equal('chosen and rejected are the same text');
  });
});

describe('examples/finetune/data: packing', () => {
  const lengths = fc.array(fc.integer({min: 1, max: 40}), {maxLength: 60});

  it('puts every sample into one row that has room, and opens no row without need', () => {
    const property = fc.property(lengths, (sizes) => {
      const samples = sizes.map((size, id) => madeOf(id, [size]));
      const rows = packSamples(samples, 40);
      const ids = rows.flatMap((row) => row.samples.map(({id}) => id));
      expect(ids.sort((a, b) => a - b)).to.deep.equal(samples.map(({id}) => id));
      rows.forEach((row, i) => {
        expect(usedTokens(row)).to.be.at.most(40);
        rows.slice(i + 1).forEach((later) => expect(usedTokens(row) + later.samples[0].tokens.length).to.be.above(40));
      });
    });
    fc.assert(property, {seed: 1});
  });

  it('takes the fullest row that has room', () => {
    const rows = packSamples(
      [6, 5, 3, 4].map((size, id) => madeOf(id, [size])),
      10,
    );
    expect(rows.map((row) => row.samples.map(({id}) => id))).to.deep.equal([
      [0, 3],
      [1, 2],
    ]);
  });

  it('refuses a sample longer than a row', async () => {
    expect(await failure(() => packSamples([madeOf(5, [11])], 10))).to.match(
      /Sample 5 has 11 tokens, which is more than a row's 10/,
    );
  });
});

describe('examples/finetune/data: batches', () => {
  const documents = fc.array(fc.integer({min: 1, max: 9}), {minLength: 1, maxLength: 4});
  const groups = fc.array(
    fc.array(fc.integer({min: 1, max: 5}), {minLength: 1, maxLength: 4}).chain((parts) =>
      // With an empty question the answers are independent documents.
      fc.boolean().map((separate) => (separate && parts.length > 1 ? [0, ...parts.slice(1)] : parts)),
    ),
    {minLength: 1, maxLength: 3},
  );
  const made = (parts: number[][][]): Row[] => {
    let id = 0;
    return parts.map((row) => ({samples: row.map((each) => madeOf(id++, each))}));
  };
  const longestRow = (rows: Row[]): number => rows.reduce((most, row) => Math.max(most, usedTokens(row)), 1);

  /** The text that each position belongs to: [sample, part], or null for padding. */
  function places(row: Row, rowTokens: number): ([number, number] | null)[] {
    const filled = row.samples.flatMap(({parts}, sample) =>
      parts.flatMap((length, part) => Array.from({length}, (): [number, number] => [sample, part])),
    );
    return Array.from({length: rowTokens}, (_, i) => filled[i] ?? null);
  }

  function expectMask(batch: Batch, rows: Row[], rowTokens: number, window: number | null): void {
    rows.forEach((row, b) => {
      const at = places(row, rowTokens);
      const dense = batch.mask(window).toDense(batch.mask(window).batch === 1 ? 0 : b);
      for (let r = 0; r < rowTokens; r++) {
        for (let j = 0; j < rowTokens; j++) {
          const [query, key] = [at[r], at[j]];
          const same = query !== null && key !== null && query[0] === key[0] && (query[1] === key[1] || key[1] === 0);
          const near = window === null || r - j < window;
          expect(dense[r * rowTokens + j], `row ${b}, query ${r}, key ${j}`).to.equal(same && near && j <= r ? 1 : 0);
        }
      }
    });
  }

  it('hold tokens, positions, labels and the places of answers', async () => {
    const property = fc.asyncProperty(
      fc.array(groups, {minLength: 1, maxLength: 3}),
      fc.integer({min: 0, max: 5}),
      async (parts, free) => {
        const rows = made(parts);
        const rowTokens = longestRow(rows) + free;
        const batch = toBatch(rows, rowTokens);
        const ids = await batch.ids.data();
        expect([batch.ids.shape, batch.ids.dtype]).to.deep.equal([[rows.length, rowTokens], 'int32']);
        expect([batch.tokens, batch.samples.length]).to.deep.equal([
          rows.reduce((sum, row) => sum + usedTokens(row), 0),
          rows.flatMap((row) => row.samples).length,
        ]);
        expect(batch.labelled).to.equal(batch.labels.filter((label) => label !== IGNORED).length);
        rows.forEach((row, b) => {
          const part = (values: ArrayLike<number>) => Array.from(values).slice(b * rowTokens, (b + 1) * rowTokens);
          const padded = (field: 'tokens' | 'positions' | 'labels', padding: number) => {
            const values = row.samples.flatMap((sample) => [...sample[field]]);
            return [...values, ...Array.from({length: rowTokens - values.length}, () => padding)];
          };
          expect(part(ids)).to.deep.equal(padded('tokens', 0));
          expect(part(batch.positions)).to.deep.equal(padded('positions', 0));
          expect(part(batch.labels)).to.deep.equal(padded('labels', IGNORED));
        });
        const samples = rows.flatMap((row) => row.samples);
        batch.samples.forEach(({id, answers}, i) => {
          expect(id).to.equal(samples[i].id);
          answers.forEach((index, k) => {
            const {start, end, sample} = batch.answers[index];
            const {start: from, end: to} = samples[i].answers[k];
            expect([sample, [...ids.slice(start, end)]]).to.deep.equal([i, [...samples[i].tokens.slice(from, to)]]);
          });
        });
        expect(batch.samples.flatMap(({answers}) => answers)).to.deep.equal(batch.answers.map((_, i) => i));
        const before = tf.memory().numTensors;
        batch.dispose();
        expect(tf.memory().numTensors).to.equal(before - 1);
      },
    );
    await fc.assert(property, {seed: 1});
  });

  it('keep samples and answers apart by their mask, which is made once', () => {
    const property = fc.property(
      fc.array(groups, {minLength: 1, maxLength: 2}),
      fc.integer({min: 0, max: 3}),
      (parts, free) => {
        const rows = made(parts);
        const batch = toBatch(rows, longestRow(rows) + free);
        expectMask(batch, rows, longestRow(rows) + free, null);
        expect(batch.mask(null)).to.equal(batch.mask(null)).and.equal(batch.mask(100));
        batch.dispose();
      },
    );
    fc.assert(property, {seed: 1, numRuns: 60});
  });

  it('limit documents to a sliding window', () => {
    const rowsOfDocuments = fc.array(documents, {minLength: 1, maxLength: 2});
    const property = fc.property(rowsOfDocuments, fc.integer({min: 1, max: 12}), (sizes, window) => {
      const rows = made(sizes.map((row) => row.map((size) => [size])));
      const batch = toBatch(rows, longestRow(rows) + 1);
      expectMask(batch, rows, longestRow(rows) + 1, window);
      expect(batch.mask(window)).to.equal(batch.mask(window));
      batch.dispose();
    });
    fc.assert(property, {seed: 1, numRuns: 60});
    const separate = made([[[0, 5, 4]]]);
    const batch = toBatch(separate, 10);
    expectMask(batch, separate, 10, 3);
    batch.dispose();
  });

  it('refuse a window shorter than a question with its answer', async () => {
    const batch = toBatch(made([[[6, 3, 4]]]), 16);
    expect(batch.mask(10)).to.equal(batch.mask(null));
    expect(await failure(() => batch.mask(9))).to.match(
      /sliding window of 9 tokens is shorter than .* here 10 tokens.*layout 'separate'/,
    );
    batch.dispose();
  });

  it('refuse rows that do not fit', async () => {
    expect(await failure(() => toBatch([], 8))).to.match(/at least one row/);
    expect(await failure(() => toBatch([{samples: []}], 8))).to.match(
      /Row 0 of the batch must hold 1 to 8 tokens, got 0/,
    );
    expect(await failure(() => toBatch(made([[[2]], [[9]]]), 8))).to.match(
      /Row 1 of the batch must hold 1 to 8 tokens, got 9/,
    );
  });
});

describe('examples/finetune/data: rows of a file', () => {
  const conversation = (i: number) => ({messages: [user(`q${i}`), assistant('ab'.repeat(1 + ((i * 7) % 23)))]});
  const records = (count: number) =>
    write(Array.from({length: count}, (_, i) => JSON.stringify(conversation(i))).join('\n'));
  const settings = (file: string, more: Partial<RowSettings> = {}): RowSettings => {
    return {file, objective: 'sft', rowTokens: 160, seed: 3, epochs: 2, packSamples: 10, shuffleRecords: 25, ...more};
  };
  const source = (more: RowSettings, start?: Position) => new RowSource(more, tokenizer, start);
  const idsOf = (rows: Row[]) => rows.map(({samples}) => samples.map(({id}) => id));

  it('give every sample once an epoch, packed, in another order each epoch and for each seed', async () => {
    const file = records(60);
    const first = source(settings(file, {epochs: 1}));
    const rows = await all(first);
    expect(
      idsOf(rows)
        .flat()
        .sort((a, b) => a - b),
    ).to.deep.equal(Array.from({length: 60}, (_, i) => i));
    expect(first.statistics).to.deep.include({rows: rows.length, samples: 60});
    expect(first.statistics.tokens).to.equal(rows.reduce((sum, row) => sum + usedTokens(row), 0));
    expect(first.statistics.density)
      .to.equal(first.statistics.tokens / (rows.length * 160))
      .and.be.above(0.6);
    const both = idsOf(await all(source(settings(file))));
    expect(both.slice(0, rows.length)).to.deep.equal(idsOf(rows));
    const second = both.slice(rows.length);
    expect(second.flat().sort((a, b) => a - b)).to.deep.equal(Array.from({length: 60}, (_, i) => i));
    expect(second).not.to.deep.equal(idsOf(rows));
    expect(idsOf(await all(source(settings(file, {epochs: 1, seed: 4}))))).not.to.deep.equal(idsOf(rows));
  });

  it('go on from any position with the rows that would have followed', async () => {
    const file = records(40);
    const whole: {row: Row; after: Position}[] = [];
    const straight = source(settings(file));
    for await (const row of straight) whole.push({row, after: straight.position});
    expect(straight.position).to.deep.equal({epoch: 2, row: 0});
    for (const [i, {after}] of whole.entries()) {
      const resumed = source(settings(file), after);
      const rest = await all(resumed);
      expect(rest).to.deep.equal(whole.slice(i + 1).map(({row}) => row));
      if (rest.length > 0) expect(resumed.statistics).to.deep.equal(straight.statistics);
    }
  });

  it('have no end unless told', async () => {
    const rows: Row[] = [];
    const endless = source(settings(records(3), {epochs: undefined}));
    for await (const row of endless) if (rows.push(row) === 10) break;
    expect(rows).to.have.length(10);
    expect(endless.position.epoch).to.be.above(2);
  });

  it('read a range of the records', async () => {
    const rows = await all(source(settings(records(30), {epochs: 1, firstRecord: 5, endRecord: 12})));
    expect(
      idsOf(rows)
        .flat()
        .sort((a, b) => a - b),
    ).to.deep.equal([5, 6, 7, 8, 9, 10, 11]);
  });

  const mixed = [
    JSON.stringify(conversation(1)),
    '{"broken": ',
    JSON.stringify({messages: [user('a'), assistant('x'.repeat(400))]}),
    JSON.stringify({txt: 'x'}),
    JSON.stringify({messages: [user('a')]}),
    JSON.stringify({prompt: 'a', chosen: 'b', rejected: 'c'}),
    JSON.stringify({messages: [assistant('Hi'), user('a'), assistant('b')]}),
  ];
  const none = {
    tiedAnswers: 0,
    unlabelledAnswers: 0,
    withUnknown: 0,
    toolCallsNotWritten: 0,
    droppedTooLong: 0,
    cut: 0,
  };

  it('count what became of every record', async () => {
    const problems: string[] = [];
    const file = write(mixed.join('\n'));
    const more = {epochs: 1, onBad: (problem: string) => problems.push(problem)};
    const cut = source(settings(file, more));
    await all(cut);
    const counts = {...none, read: 7, used: 3, cut: 1, droppedBad: 3, noAnswer: 1, unlabelledAnswers: 1};
    expect(cut.statistics.counts).to.deep.equal(counts);
    expect(problems).to.have.length(3);
    expect(problems.sort().map((problem) => problem.slice(file.length))).to.have.ordered.members([
      problems[0].slice(file.length),
      ', line 4: a record of an unknown shape, with the fields txt. ' + problems[1].slice(problems[1].indexOf('Known')),
      ', line 6: sft learns conversations, but this is a comparison of answers.',
    ]);
    expect(problems[0]).to.match(/, line 2: this is not JSON/);
    const dropped = source(settings(file, {...more, tooLong: 'drop'}));
    await all(dropped);
    expect(dropped.statistics.counts).to.deep.equal({...counts, used: 2, cut: 0, droppedTooLong: 1});
  });

  it('teach no mark of unknown text, and count the samples that have it', async () => {
    const {tokenizerJson, tokenizerConfig} = bpeTokenizer({alphabet: ['a', 'b', '▁'], merges: []});
    const letters = new ChatTokenizer(tokenizerJson, tokenizerConfig, 7, 'letters');
    const turns = [
      ['ab', 'aéb'],
      ['ab', 'ba'],
      ['é', 'b'],
      ['a', 'é'.repeat(50)],
    ];
    const messages = turns.map(([prompt, answer]) => ({messages: [user(prompt), assistant(answer)]}));
    const file = write(JSON.stringify(messages));
    const rows = new RowSource(settings(file, {epochs: 1, maxTokens: 16, tooLong: 'cut'}), letters);
    const samples = (await all(rows)).flatMap((row) => row.samples).sort((a, b) => a.id - b.id);
    const [a, b, end] = [...letters.encode('ab'), letters.eosTokenId];
    const taught = samples.map(({labels}) => [...labels].slice([...labels].findIndex((label) => label !== IGNORED)));
    expect(taught).to.deep.equal([
      [a, IGNORED, b, end],
      [b, a, end],
      [b, end],
    ]);
    const counts = {...none, read: 4, used: 3, droppedBad: 0, noAnswer: 1, withUnknown: 3};
    expect(rows.statistics.counts).to.deep.equal(counts);
  });

  it('count comparisons, and answers that are as good as another', async () => {
    const ranked = {prompt: 'a', answers: ['b', 'c', 'd'], scores: [1, 1, 0]};
    const file = write(JSON.stringify([ranked, {prompt: 'a', chosen: 'b', rejected: ''}, conversation(1)]));
    for (const objective of ['dpo', 'rm'] as const) {
      const problems: string[] = [];
      const rows = source(settings(file, {objective, epochs: 1, onBad: (problem) => problems.push(problem)}));
      const [{samples}] = await all(rows);
      expect(samples.map(({answers}) => answers.length)).to.deep.equal([2]);
      expect(rows.statistics.counts).to.deep.equal({
        ...none,
        read: 3,
        used: 1,
        droppedBad: 1,
        noAnswer: 1,
        tiedAnswers: 1,
      });
      expect(problems).to.deep.equal([
        `${file}, item 3: ${objective} compares answers, but this is a conversation with one.`,
      ]);
    }
  });

  it('refuse bad records by their line, unless told to leave them out', async () => {
    const lines = (...kept: number[]) => write(kept.map((i) => mixed[i]).join('\n'));
    const message = (file: string) => failure(() => all(source(settings(file))));
    expect(await message(lines(0, 1))).to.match(/line 2: this is not JSON.*--skip-bad/);
    expect(await message(lines(0, 0, 3))).to.match(/line 3: a record of an unknown shape.*--skip-bad/);
    const bare = lines(5);
    expect(await message(bare)).to.equal(
      `${bare}, line 1: sft learns conversations, but this is a comparison of answers. Fix it, or leave out such items with --skip-bad.`,
    );
  });

  it('name the first wrong record of the file, whatever the order of the shuffle', async () => {
    const wrong = (count: number) => Array.from({length: count}, (_, i) => JSON.stringify({question: `q${i}`}));
    const right = JSON.stringify(conversation(1));
    for (const seed of [1, 2, 3]) {
      const message = (lines: string[], more: Partial<RowSettings> = {}) =>
        failure(() => all(source(settings(write(lines.join('\n')), {seed, ...more}))));
      expect(await message(wrong(20))).to.match(/, line 1: a record of an unknown shape, with the fields question/);
      expect(await message([right, right, ...wrong(20)])).to.match(/, line 3: a record of an unknown shape/);
      // What the chat template refuses is found when a record becomes tokens: the first record does so first.
      const alone = Array.from({length: 20}, () => JSON.stringify({messages: [assistant('Hi')]}));
      expect(await message(alone)).to.match(/, line 1: a conversation needs a message before its answer/);
    }
  });

  it('read plain texts for sft, and pairs of them for dpo and rm', async () => {
    const texts = write(JSON.stringify([{text: 'a b'}, conversation(1), {text: ' '}]));
    const sft = source(settings(texts, {epochs: 1}));
    await all(sft);
    expect(sft.statistics.counts).to.deep.include({read: 3, used: 2, noAnswer: 1, droppedBad: 0});
    const pairs = write(
      JSON.stringify([
        {chosen: 'a b', rejected: 'a c'},
        {prompt: 'a', chosen: 'b', rejected: 'c'},
      ]),
    );
    for (const objective of ['dpo', 'rm'] as const) {
      const rows = source(settings(pairs, {objective, epochs: 1}));
      const samples = (await all(rows)).flatMap((row) => row.samples);
      expect(samples.map(({answers}) => answers.length)).to.deep.equal([2, 2]);
      expect(await failure(() => all(source(settings(texts, {objective}))))).to.match(
        new RegExp(`item 1: ${objective} compares answers, but this is a text\\.`),
      );
    }
    expect(await failure(() => all(source(settings(pairs))))).to.match(/item 1: sft learns conversations/);
  });

  it('refuse data without a sample, with the counts', async () => {
    const message = (content: string, more: Partial<RowSettings> = {}) => {
      return failure(() => all(source(settings(write(content), more))));
    };
    expect(await message('')).to.match(
      /nothing to learn from: of 0 records, 0 were too long, 0 bad, 0 without an answer\.$/,
    );
    expect(await message(mixed.slice(1, 5).join('\n'), {tooLong: 'drop', onBad: () => undefined})).to.match(
      /of 4 records, 1 were too long, 2 bad, 1 without an answer\. The first bad one: .*line \d: /,
    );
  });

  it('refuse settings and positions that do not fit', async () => {
    const file = records(5);
    expect(await failure(() => source(settings(file, {maxTokens: 161})))).to.match(
      /up to 161 tokens do not fit rows of 160/,
    );
    expect(await failure(() => all(source(settings(file), {epoch: 0, row: 99})))).to.match(
      /now gives \d rows in epoch 0, but 99 of them were read/,
    );
  });
});
