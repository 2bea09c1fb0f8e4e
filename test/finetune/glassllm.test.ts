/**
 * @file Compares glassllm as a Llama with its own Python: token ids, learnt merges, logits, loss, every gradient,
 * generation. Skipped with the reason where Python, NumPy or the package is missing (`FLASHMASK_PYTHON` names the
 * interpreter). The tests of its NumPy archives need none of them.
 */
import {spawnSync} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import fc from 'fast-check';
import {zipSync} from 'fflate';
import {type Batch, toBatch} from '../../examples/finetune/data/batch.js';
import {IGNORED, type Sample} from '../../examples/finetune/data/sample.js';
import {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';
import type {HostTensor} from '../../examples/finetune/host_tensor.js';
import {generateTokens} from '../../examples/finetune/model/generate.js';
import {attentionOf} from '../../examples/finetune/train/attention.js';
import {sftObjective} from '../../examples/finetune/train/objectives/sft.js';
import {TrainedModel} from '../../examples/finetune/train/trained_model.js';
import {SPECIALS, trainBpe} from '../../examples/finetune/weights/bpe.js';
import {type ModelFiles, openModel} from '../../examples/finetune/weights/model_files.js';
import {readNpz} from '../../examples/finetune/weights/npz.js';
import {GLASSLLM, defaultCacheFolder, openDataset} from '../../examples/finetune/weights/pypi.js';
import {pairsToHalves} from '../../examples/finetune/weights/rotary_rows.js';
import {skip} from '../support/skip.js';

const python = process.env.FLASHMASK_PYTHON ?? 'python3';
const judge = fileURLToPath(new URL('../support/glassllm_judge.py', import.meta.url));

interface Answer {
  encoded: number[][];
  decoded: string[];
  logits: number[][][];
  losses: {loss: number; gradients: Record<string, number[]>}[];
  generated: number[][];
  learned: {alphabet: string[]; merges: [string, string][]}[];
}

function askGlassllm(request: object): Answer {
  const wheel = join(defaultCacheFolder(), GLASSLLM.file);
  const input = JSON.stringify(request);
  const run = spawnSync(python, [judge, wheel], {input, encoding: 'utf8', maxBuffer: 2 ** 30});
  if (run.status !== 0) {
    throw new Error(`${judge} failed: ${run.stderr}`);
  }
  return JSON.parse(run.stdout) as Answer;
}

/** Why the judge cannot run, or ''. Downloads the package and the texts. */
async function missing(): Promise<string> {
  const probe = spawnSync(python, ['-c', 'import numpy'], {encoding: 'utf8'});
  if (probe.status !== 0) {
    return probe.error?.message ?? `${python}: ${probe.stderr.trim().split('\n').at(-1)}`;
  }
  try {
    await openModel('glassllm');
    await openDataset('alpaca_en_demo');
    return '';
  } catch (error) {
    return (error as Error).message;
  }
}

function largest(values: ArrayLike<number>): number {
  return Array.from(values).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

function largestDifference(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  expect(got.length).to.equal(wanted.length);
  return largest(Array.from(wanted, (value, i) => value - got[i]));
}

const TEXT_SAMPLES = [
  '',
  ' ',
  '\n',
  '  two  spaces  ',
  'Alice was beginning to get very tired\nof sitting by her sister on the bank.',
  '“Curiouser and curiouser!” cried Alice',
  'a straight "quote", 3 = 1 + 2; naïve café, Ωμέγα, 漢字, 🚀🎮',
  'e\u0301 is \u00e9, and \u00c6 is known',
  '▁ a marker ▁▁ in the text',
  'tab\tand\rreturn\r\n',
  'x'.repeat(1000),
  ' the'.repeat(400),
];

/** Names of the parts of a block: Hugging Face's, and glassllm's. */
const PARTS: Record<string, string> = {
  input_layernorm: 'norm1.gamma',
  'self_attn.q_proj': 'attn.W_Q',
  'self_attn.k_proj': 'attn.W_K',
  'self_attn.v_proj': 'attn.W_V',
  'self_attn.o_proj': 'attn.W_O',
  post_attention_layernorm: 'norm2.gamma',
  'mlp.gate_proj': 'ffn.W1',
  'mlp.up_proj': 'ffn.W3',
  'mlp.down_proj': 'ffn.W2',
};

function theirName(name: string): string {
  const [, layer, part] = /^model\.layers\.(\d+)\.(.+)\.weight$/.exec(name) ?? [];
  return layer !== undefined ? `blocks.${layer}.${PARTS[part]}` : name === 'model.norm.weight' ? 'norm_f.gamma' : 'E';
}

/** One of glassllm's gradients in Hugging Face's layout: matrices transposed, rotary channels in halves. */
function inHubLayout(name: string, shape: number[], values: readonly number[]): Float32Array {
  if (!/_proj/.test(name)) {
    return Float32Array.from(values);
  }
  const [rows, columns] = shape;
  const data = Float32Array.from(values, (_, i) => values[(i % columns) * rows + Math.floor(i / columns)]);
  const turned: HostTensor = {shape, data};
  return (/[qk]_proj/.test(name) ? pairsToHalves(turned, 32) : turned).data;
}

describe('glassllm against its own Python', function () {
  let files: ModelFiles;
  let tokenizer: ChatTokenizer;
  let model: TrainedModel;
  let texts: string[];

  before(async function () {
    const reason = await missing();
    if (reason !== '') {
      skip(this, reason);
    }
    await tf.setBackend('cpu');
    files = await openModel('glassllm');
    tokenizer = new ChatTokenizer(files.tokenizerJson, files.tokenizerConfig, files.config.vocabSize, 'glassllm');
    model = await TrainedModel.load(files, {lora: null, rewardModel: false, seed: 0, keepActivations: true});
    const records = JSON.parse(readFileSync(await openDataset('alpaca_en_demo'), 'utf8')) as Record<string, string>[];
    texts = records.flatMap(({instruction, input, output}) => [`${instruction}\n${input}`, output]);
  });
  after(() => model?.dispose());

  describe('tokenizer', () => {
    const compare = (samples: string[]): void => {
      const encoded = samples.map((text) => tokenizer.encode(text));
      const answer = askGlassllm({texts: samples, ids: encoded});
      samples.forEach((text, i) => {
        expect(encoded[i], JSON.stringify(text)).to.deep.equal(answer.encoded[i]);
        // glassllm prints ⁇ for an unknown token, our tokenizer prints nothing.
        expect(tokenizer.decode(encoded[i])).to.equal(answer.decoded[i].replaceAll('⁇', ''));
      });
    };
    it('gives the same ids and texts for odd samples', () => compare(TEXT_SAMPLES));
    it('gives the same ids and texts for all 1998 texts of alpaca_en_demo', () => {
      expect(texts).to.have.length(1998);
      compare(texts);
    });
    it('gives the same ids and texts for random texts, seeded', () => {
      const known = Array.from({length: 1020}, (_, i) => tokenizer.decode([i + 4]));
      const characters = fc.constantFrom(' ', ' ', '\n', 'é', '"', '😀');
      const text = fc
        .array(fc.oneof(characters, fc.constantFrom(...known)), {maxLength: 60})
        .map((parts) => parts.join(''));
      compare(fc.sample(text, {seed: 5, numRuns: 3000}));
    });
    it('learns the same merges from a text', () => {
      const samples = [texts.slice(0, 40).join('\n'), 'aaaa aaaa abab', 'z🚀z🚀 ﬀz🚀'];
      const sizes = [400, 30, 20];
      const {learned} = askGlassllm({learn: samples.map((text, i) => [text, sizes[i]])});
      samples.forEach((text, i) => expect(trainBpe(text, sizes[i])).to.deep.equal(learned[i]));
    });
  });

  describe('network', () => {
    const document = (length: number, seed: number): number[] =>
      Array.from({length}, (_, i) => 4 + ((i * 73 + seed * 191 + i * i * 7) % 1020));
    const packed = (documents: number[][], rowTokens: number, labels?: number[]): Batch => {
      const samples = documents.map((tokens, id): Sample => ({
        id,
        tokens: Int32Array.from(tokens),
        positions: Int32Array.from(tokens, (_, i) => i),
        labels: Int32Array.from(labels ?? tokens.map(() => IGNORED)),
        parts: [tokens.length],
        answers: [],
      }));
      return toBatch([{samples}], rowTokens);
    };

    it('gives the same logits, for documents packed in a row and for each alone', async () => {
      const documents = [document(40, 1), document(17, 2), document(128, 3), document(1, 4)];
      const wanted = askGlassllm({documents}).logits.flat(2);
      const batch = packed(documents, 200);
      for (const kind of ['flash', 'dense'] as const) {
        const {attend, tensors} = attentionOf(kind, batch, files.config);
        const logits = tf.tidy(() => tf.matMul(model.hidden(batch, attend), model.network.head, false, true));
        const difference = largestDifference((await logits.data()).subarray(0, wanted.length), wanted);
        const scale = largest(wanted);
        console.log(
          `      ${kind}: largest difference ${difference.toExponential(1)} of logits to ${scale.toFixed(1)}`,
        );
        expect(difference).to.be.below(1e-6 * scale);
        tf.dispose([logits, ...tensors]);
      }
      batch.dispose();
    });

    it('gives the same loss and gradients of all 38 weights', async () => {
      const ids = document(64, 9);
      const targets = [...ids.slice(1), 5];
      const [{loss, gradients}] = askGlassllm({losses: [[ids, targets]]}).losses;
      const batch = packed([ids], 64, targets);
      const {attend} = attentionOf('flash', batch, files.config);
      const lossOf = () => sftObjective.loss(model, batch, model.hidden(batch, attend), batch.labelled).loss;
      const {value, grads} = tf.variableGrads(lossOf, [...model.trainable.values()]);
      expect((await value.data())[0]).to.be.closeTo(loss, 1e-5 * loss);
      expect([...model.trainable.keys()].map(theirName).sort()).to.deep.equal(Object.keys(gradients).sort());
      let worst = 0;
      for (const [name, variable] of model.trainable) {
        const wanted = inHubLayout(name, variable.shape, gradients[theirName(name)]);
        worst = Math.max(worst, largestDifference(await grads[variable.name].data(), wanted) / largest(wanted));
      }
      console.log(`      largest difference ${worst.toExponential(1)} of a gradient's largest value`);
      expect(worst).to.be.below(1e-5);
      tf.dispose([value, grads]);
      batch.dispose();
    });

    it('generates the same greedy text with its key-value cache', async () => {
      const prompt = tokenizer.encode('Alice looked at the\n');
      const options = {maxNewTokens: 30, temperature: 0, topP: 1, seed: 0, eosTokenIds: [SPECIALS.end]};
      const tokens: number[] = [];
      for await (const token of generateTokens(model.network, prompt, options)) {
        tokens.push(token);
      }
      const [wanted] = askGlassllm({generate: [[prompt, 30]]}).generated;
      expect(tokens).to.deep.equal(wanted.filter((token) => token !== SPECIALS.end));
      expect(tokens.length).to.be.above(5);
    });
  });
});

describe('NumPy archives', () => {
  /** A version 1 .npy file. */
  const npy = (descr: string, shape: string, body: Uint8Array): Uint8Array => {
    const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }`.padEnd(117) + '\n';
    const prefix = Buffer.concat([
      Buffer.from('\x93NUMPY\x01\x00', 'latin1'),
      Buffer.from([header.length & 255, header.length >> 8]),
    ]);
    return new Uint8Array(Buffer.concat([prefix, Buffer.from(header, 'latin1'), body]));
  };

  it('give float16, float32, float64 arrays and a text', () => {
    // 1, -2, 65504, the smallest float16, -0, 0.333251953125
    const halves = Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000, 0x3555);
    const file = zipSync({
      'h.npy': npy('<f2', '2, 3', new Uint8Array(halves.buffer)),
      'f.npy': npy('<f4', '2,', new Uint8Array(Float32Array.of(0.1, -3).buffer)),
      'd.npy': npy('<f8', '', new Uint8Array(Float64Array.of(2.5).buffer)),
      't.npy': npy('<U3', '', new Uint8Array(Uint32Array.of(97, 0x1f680, 0).buffer)),
    });
    const {arrays, texts} = readNpz(file);
    expect(arrays.get('h')).to.deep.equal({
      shape: [2, 3],
      data: Float32Array.of(1, -2, 65504, 2 ** -24, -0, 0.333251953125),
    });
    expect(arrays.get('f')).to.deep.equal({shape: [2], data: Float32Array.of(0.1, -3)});
    expect(arrays.get('d')).to.deep.equal({shape: [], data: Float32Array.of(2.5)});
    expect(texts.get('t')).to.equal('a🚀');
  });

  it('that cannot be read are refused by name', () => {
    const zip = (body: Uint8Array) => zipSync({'x.npy': body});
    expect(() => readNpz(zip(npy('<i8', '1,', new Uint8Array(8))))).to.throw(/x\.npy holds <i8/);
    expect(() => readNpz(zip(npy('<f4', '3,', new Uint8Array(8))))).to.throw(/12 bytes, got 8/);
    expect(() => readNpz(zip(new Uint8Array(20)))).to.throw(/x\.npy is not a NumPy array/);
    expect(() => readNpz(new Uint8Array(50))).to.throw();
  });
});
