/**
 * @file The model and tokenizer of examples/ against glassllm's own Python: token ids, logits, loss, every gradient, generation.
 * Skipped, with the reason, without Python and NumPy or without the package (`FLASHMASK_PYTHON` names the interpreter).
 */
import {spawnSync} from 'node:child_process';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import fc from 'fast-check';
import {denseAttention, denseBias, flashAttention} from '../examples/lib/attention.js';
import {toBatch} from '../examples/lib/batches.js';
import {generate} from '../examples/lib/generate.js';
import {Decoder, crossEntropy} from '../examples/lib/model.js';
import {packDocuments} from '../examples/lib/packing.js';
import {MODEL, TEXTS, type Model, downloadFolder, loadModel, loadTexts} from '../examples/lib/sources.js';
import {pinnedFile} from '../examples/lib/pinned_download.js';
import {Tokenizer} from '../examples/lib/tokenizer.js';
import {clearBoundsCache} from '../src/index.js';
import {encodePrompt} from '../examples/lib/texts.js';

const python = process.env.FLASHMASK_PYTHON ?? 'python3';
const judge = fileURLToPath(new URL('example_judge.py', import.meta.url));

interface Answer {
  encoded: number[][];
  decoded: string[];
  logits: number[][][];
  losses: {loss: number; gradients: Record<string, number[]>}[];
  generated: number[][];
  learned: {alphabet: string[]; merges: [string, string][]}[];
}

function askGlassllm(request: object): Answer {
  const wheel = join(downloadFolder(), MODEL.file);
  const input = JSON.stringify(request);
  const run = spawnSync(python, [judge, wheel], {input, encoding: 'utf8', maxBuffer: 2 ** 30});
  if (run.status !== 0) {
    throw new Error(`${judge} failed: ${run.stderr}`);
  }
  return JSON.parse(run.stdout) as Answer;
}

/** Why the judge cannot be asked, or ''. */
async function missing(): Promise<string> {
  const probe = spawnSync(python, ['-c', 'import numpy'], {encoding: 'utf8'});
  if (probe.status !== 0) {
    return probe.error?.message ?? `${python}: ${probe.stderr.trim().split('\n').at(-1)}`;
  }
  try {
    await pinnedFile(MODEL, {cache: downloadFolder()});
    await pinnedFile(TEXTS, {cache: downloadFolder()});
    return '';
  } catch (error) {
    return (error as Error).message;
  }
}

function largestDifference(got: ArrayLike<number>, wanted: readonly number[]): number {
  expect(got.length).to.equal(wanted.length);
  return wanted.reduce((largest, value, i) => Math.max(largest, Math.abs(value - got[i])), 0);
}

function largest(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
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
  '<eos><pad><unk><bos>',
  'tab\tand\rreturn\r\n',
  'x'.repeat(1000),
  ' the'.repeat(400),
];

describe('the example against glassllm', function () {
  let model: Model;
  let decoder: Decoder;
  let texts: string[];

  before(async function () {
    const reason = await missing();
    if (reason !== '') {
      console.log(`      skipped: ${reason}`);
      this.skip();
    }
    await tf.setBackend('cpu');
    model = await loadModel();
    decoder = new Decoder(model.config, model.weights);
    const loaded = await loadTexts(undefined, model);
    texts = loaded.texts.flatMap(({prompt, response}) => [prompt, response]);
  });
  after(() => decoder?.dispose());

  describe('tokenizer', () => {
    const compare = (samples: string[]): void => {
      const encoded = samples.map((text) => model.tokenizer.encode(text));
      const answer = askGlassllm({texts: samples, ids: encoded});
      samples.forEach((text, i) => {
        expect(encoded[i], JSON.stringify(text)).to.deep.equal(answer.encoded[i]);
        expect(model.tokenizer.decode(encoded[i])).to.equal(answer.decoded[i]);
      });
    };
    it('has the same 1024 tokens', () => {
      expect(model.tokenizer.vocab).to.have.length(1024);
      expect(model.config.vocabSize).to.equal(1024);
    });
    it('gives the same ids and texts for odd samples', () => compare(TEXT_SAMPLES));
    it('gives the same ids and texts for all 1998 texts of alpaca_en_demo', () => {
      expect(texts).to.have.length(1998);
      compare(texts);
    });
    it('gives the same ids and texts for random texts, seeded', () => {
      const characters = fc.constantFrom(...model.tokenizer.alphabet, ' ', ' ', '\n', 'é', '"', '😀');
      const words = fc.constantFrom(...model.tokenizer.vocab.slice(4));
      const text = fc.array(fc.oneof(characters, words), {maxLength: 60}).map((parts) => parts.join(''));
      compare(fc.sample(text, {seed: 5, numRuns: 3000}));
    });
    it('learns the same merges from a text', () => {
      const samples = [texts.slice(0, 40).join('\n'), 'aaaa aaaa abab', 'z🚀z🚀 ﬀz🚀'];
      const sizes = [400, 30, 20];
      const {learned} = askGlassllm({learn: samples.map((text, i) => [text, sizes[i]])});
      samples.forEach((text, i) => {
        const {alphabet, merges} = Tokenizer.train(text, sizes[i]);
        expect({alphabet, merges}).to.deep.equal(learned[i]);
      });
    });
  });

  describe('decoder', () => {
    const document = (length: number, seed: number): number[] =>
      Array.from({length}, (_, i) => 4 + ((i * 73 + seed * 191 + i * i * 7) % 1020));

    it('gives the same logits, for documents packed in a row and for each alone', async () => {
      const documents = [document(40, 1), document(17, 2), document(128, 3), document(1, 4)];
      const {logits} = askGlassllm({documents});
      const scale = largest(logits.flat(2));
      const rows = packDocuments(
        documents.map((tokens) => ({tokens, promptLength: 0})),
        200,
      );
      const batch = toBatch(rows);
      const bias = denseBias(batch.mask);
      for (const [name, attend] of [
        ['flash', flashAttention(batch.mask)],
        ['dense', denseAttention(bias)],
      ] as const) {
        const got = decoder.logits(batch, attend);
        const values = (await got.array()) as number[][];
        // The packer orders documents by length.
        const wanted = [logits[2], logits[0], logits[1], logits[3]].flat();
        const difference = largestDifference(values.slice(0, wanted.length).flat(), wanted.flat());
        console.log(
          `      ${name}: largest difference ${difference.toExponential(1)} of logits up to ${scale.toFixed(1)}`,
        );
        expect(difference).to.be.below(1e-6 * scale);
        got.dispose();
      }
      bias.dispose();
      batch.dispose();
    });

    it('gives the same loss and gradients of all 38 weights', async () => {
      const ids = document(64, 9);
      const targets = [...ids.slice(1), 5];
      const [{loss, gradients}] = askGlassllm({losses: [[ids, targets]]}).losses;
      const batch = toBatch(packDocuments([{tokens: ids, promptLength: 0}], 64));
      const labels = tf.tensor1d(targets, 'int32');
      const variables = [...decoder.weights.values()];
      const {value, grads} = tf.variableGrads(
        () => crossEntropy(decoder.logits(batch, flashAttention(batch.mask)), labels),
        variables,
      );
      expect((await value.data())[0]).to.be.closeTo(loss, 1e-5 * loss);
      expect([...decoder.weights.keys()].sort()).to.deep.equal(Object.keys(gradients).sort());
      let worst = 0;
      for (const [name, variable] of decoder.weights) {
        const wanted = gradients[name];
        const scale = largest(wanted);
        worst = Math.max(worst, largestDifference(await grads[variable.name].data(), wanted) / scale);
      }
      console.log(`      largest difference ${worst.toExponential(1)} of a gradient's largest value`);
      expect(worst).to.be.below(1e-5);
      tf.dispose([value, grads, labels]);
      batch.dispose();
    });

    it('generates the same greedy text with its key-value cache, and leaks nothing', async () => {
      const prompt = 'Alice looked at the';
      clearBoundsCache();
      const before = tf.memory().numTensors;
      const text = await generate(decoder, model.tokenizer, prompt, 30);
      clearBoundsCache();
      expect(tf.memory().numTensors).to.equal(before);
      const {generated} = askGlassllm({generate: [[encodePrompt(prompt, model.tokenizer), 30]]});
      expect(text).to.equal(model.tokenizer.decode(generated[0]));
    });
  });
});
