/** @file The parts of examples/ that need no download: packing, texts, AdamW, attention, checkpoints, archives, pictures. */
import {spawnSync} from 'node:child_process';
import {mkdtempSync, readFileSync, readdirSync, rmSync, truncateSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import fc from 'fast-check';
import {zipSync} from 'fflate';
import {ADAMW, AdamW, learningRate} from '../examples/lib/adamw.js';
import {denseAttention, denseBias, flashAttention} from '../examples/lib/attention.js';
import {rowsOfStep, toBatch} from '../examples/lib/batches.js';
import {lossChart} from '../examples/lib/chart.js';
import {loadCheckpoint, saveCheckpoint} from '../examples/lib/checkpoint.js';
import {type ModelConfig, Decoder, crossEntropy, freshWeights, weightShapes} from '../examples/lib/model.js';
import {readNpz} from '../examples/lib/npz.js';
import {type Document, IGNORED, packDocuments} from '../examples/lib/packing.js';
import {formatSeconds} from '../examples/lib/progress.js';
import {normal, shuffled, uniform} from '../examples/lib/random.js';
import {readSafetensors, writeSafetensors} from '../examples/lib/safetensors.js';
import {fromScratch} from '../examples/lib/sources.js';
import {readAlpaca, readParagraphs, toDocuments} from '../examples/lib/texts.js';
import {Tokenizer} from '../examples/lib/tokenizer.js';
import {Trainer} from '../examples/lib/trainer.js';
import {clearBoundsCache, masks} from '../src/index.js';

const TINY: ModelConfig = {
  vocabSize: 50,
  width: 16,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  maxLength: 16,
  ropeBase: 10000,
  epsilon: 1e-6,
  initStd: 0.3,
};

function temporary(): string {
  return mkdtempSync(join(tmpdir(), 'flashmask-example-'));
}

/** Documents of a tiny vocabulary, of many lengths. */
function tinyDocuments(count: number, seed: number): Document[] {
  const next = uniform(seed);
  return Array.from({length: count}, () => {
    const tokens = Array.from({length: 2 + Math.floor(next() * 14)}, () => 4 + Math.floor(next() * 46));
    return {tokens, promptLength: Math.floor(next() * tokens.length)};
  });
}

describe('example: packing', () => {
  const documents = (longest: number) =>
    fc.array(
      fc
        .array(fc.integer({min: 4, max: 1000}), {minLength: 1, maxLength: longest})
        .chain((tokens) => fc.record({tokens: fc.constant(tokens), promptLength: fc.nat({max: tokens.length})})),
      {maxLength: 40},
    );
  const rowsAndDocuments = fc
    .integer({min: 1, max: 40})
    .chain((rowTokens) => fc.record({rowTokens: fc.constant(rowTokens), documents: documents(rowTokens)}));

  /** The documents of a row, read back from its arrays. */
  const unpack = ({tokens, lengths}: {tokens: Int32Array; lengths: number[]}): number[][] => {
    let start = 0;
    return lengths.map((length) => Array.from(tokens.subarray(start, (start += length))));
  };

  it('keeps every token of every document once, in rows that are never longer', () => {
    fc.assert(
      fc.property(rowsAndDocuments, ({rowTokens, documents: given}) => {
        const rows = packDocuments(given, rowTokens);
        for (const row of rows) {
          const used = row.lengths.reduce((sum, length) => sum + length, 0);
          expect([row.tokens.length, row.labels.length, row.positions.length]).to.deep.equal(Array(3).fill(rowTokens));
          expect(used).to.be.within(1, rowTokens);
          expect(Array.from(row.tokens.subarray(used)).every((token) => token === 0)).to.equal(true);
        }
        const sorted = (lists: readonly (readonly number[])[]): string[] => lists.map((list) => list.join()).sort();
        expect(sorted(rows.flatMap(unpack))).to.deep.equal(sorted(given.map(({tokens}) => tokens)));
      }),
      {seed: 1, numRuns: 300},
    );
  });

  it('labels the next token of the same document, never the prompt, never padding; positions restart', () => {
    fc.assert(
      fc.property(rowsAndDocuments, ({rowTokens, documents: given}) => {
        const wanted = given
          .map(({tokens, promptLength}) =>
            tokens.map((_, i) => (i + 1 >= promptLength && i + 1 < tokens.length ? tokens[i + 1] : IGNORED)),
          )
          .map((labels) => labels.join());
        const got: string[] = [];
        for (const {labels, positions, lengths} of packDocuments(given, rowTokens)) {
          let start = 0;
          for (const length of lengths) {
            got.push(labels.subarray(start, start + length).join());
            expect(Array.from(positions.subarray(start, start + length))).to.deep.equal([...Array(length).keys()]);
            start += length;
          }
          expect(labels.subarray(start).every((label) => label === IGNORED)).to.equal(true);
        }
        expect(got.sort()).to.deep.equal(wanted.sort());
      }),
      {seed: 2, numRuns: 300},
    );
  });

  it('fits best: no two rows could share one', () => {
    fc.assert(
      fc.property(rowsAndDocuments, ({rowTokens, documents: given}) => {
        const used = packDocuments(given, rowTokens).map(({lengths}) => lengths.reduce((sum, each) => sum + each, 0));
        used.sort((a, b) => a - b);
        expect(used.length < 2 || used[0] + used[1] > rowTokens).to.equal(true);
      }),
      {seed: 3, numRuns: 300},
    );
  });

  it('refuses a document longer than a row', () => {
    const long = {tokens: [4, 5, 6], promptLength: 0};
    expect(() => packDocuments([long], 2)).to.throw(/3 tokens does not fit a row of 2.*--row-tokens/);
  });

  it('shows every row once an epoch, and the same rows at the same step', () => {
    const rows = packDocuments(tinyDocuments(60, 1), 16);
    const all = Array.from({length: rows.length}, (_, step) => rowsOfStep(rows, 2, 7, step)).flat();
    for (const epoch of [all.slice(0, rows.length), all.slice(rows.length)]) {
      expect(new Set(epoch).size).to.equal(rows.length);
    }
    expect(all.slice(0, rows.length)).to.not.deep.equal(all.slice(rows.length));
    expect(rowsOfStep(rows, 2, 7, 3)).to.deep.equal(all.slice(6, 8));
  });
});

describe('example: texts', () => {
  const tokenizer = Tokenizer.train('the cat sat on the mat. the dog sat on the log.\n', 40);

  it('reads a JSON list and a JSON object a line, with and without input', () => {
    const items = [
      {instruction: 'a', input: 'b', output: 'c'},
      {instruction: 'd', input: '', output: 'e'},
    ];
    const wanted = [
      {prompt: 'a\nb', response: 'c'},
      {prompt: 'd', response: 'e'},
    ];
    expect(readAlpaca(JSON.stringify(items), 'x.json')).to.deep.equal(wanted);
    expect(readAlpaca(items.map((item) => JSON.stringify(item)).join('\n'), 'x.jsonl')).to.deep.equal(wanted);
  });
  it('says what is wrong with a data file', () => {
    expect(() => readAlpaca('{"instruction": "a"}', 'x.jsonl')).to.throw(/x\.jsonl should hold .*item 0 lacks/);
    expect(() => readAlpaca('[1, 2', 'x.json')).to.throw(/x\.json should hold/);
  });
  it('cuts long answers without <eos>, ends whole ones with it, leaves out long prompts and unknown characters', () => {
    const whole = {prompt: 'the cat', response: 'sat.'};
    const long = {prompt: 'the cat', response: 'the dog sat on the log. '.repeat(9)};
    const prompt = {prompt: 'the dog sat on the log. '.repeat(9), response: 'the mat.'};
    const unknown = {prompt: 'the cat', response: 'QQQ'};
    const result = toDocuments([whole, long, prompt, unknown], tokenizer, 24);
    expect([result.longPrompts, result.unknownCharacters]).to.deep.equal([1, 1]);
    const [first, second] = result.documents;
    expect(tokenizer.decode(first.tokens)).to.equal('the cat\nsat.');
    expect(tokenizer.decode(first.tokens.slice(0, first.promptLength))).to.equal('the cat\n');
    expect(first.tokens.at(-1)).to.equal(Tokenizer.EOS);
    expect(second.tokens).to.have.length(24);
    expect(second.tokens).to.not.include(Tokenizer.EOS);
  });
  it('splits a long text into paragraphs that fit, and loses nothing but blank ends', () => {
    const text = Array.from({length: 30}, (_, i) => `the cat sat ${'on '.repeat(i % 4)}the mat.\n`).join('');
    const parts = readParagraphs(text, tokenizer, 30);
    expect(parts.length).to.be.above(5);
    expect(parts.map(({response}) => response).join('\n') + '\n').to.equal(text);
    parts.forEach(({response}) => expect(tokenizer.encode(response).length).to.be.below(30));
  });
  it("makes a model and documents of the repository's own documentation", () => {
    const {model, texts} = fromScratch(3);
    expect(texts.texts.length).to.be.above(10);
    expect(texts.origin).to.match(/\.md/);
    expect(model.config.vocabSize).to.equal(model.tokenizer.vocab.length);
    const {documents, unknownCharacters} = toDocuments(texts.texts, model.tokenizer, model.config.maxLength);
    expect(unknownCharacters).to.equal(0);
    expect(documents.length).to.be.above(10);
  });
});

describe('example: AdamW', () => {
  /** One weight of a matrix or vector in float64, as glassllm's optim.py computes it. */
  function adamwFloat64(start: number[][], gradients: number[][][], matrices: boolean[], rates: number[]): number[][] {
    const values = start.map((list) => [...list]);
    const mean = start.map((list) => list.map(() => 0));
    const square = start.map((list) => list.map(() => 0));
    gradients.forEach((step, t) => {
      const norm = Math.sqrt(step.flat().reduce((sum, g) => sum + g * g, 0));
      const shrink = norm > ADAMW.maxNorm ? ADAMW.maxNorm / (norm + 1e-6) : 1;
      values.forEach((list, i) =>
        list.forEach((value, j) => {
          const g = step[i][j] * shrink;
          mean[i][j] = ADAMW.beta1 * mean[i][j] + (1 - ADAMW.beta1) * g;
          square[i][j] = ADAMW.beta2 * square[i][j] + (1 - ADAMW.beta2) * g * g;
          const unbiased = mean[i][j] / (1 - ADAMW.beta1 ** (t + 1));
          const deviation = Math.sqrt(square[i][j] / (1 - ADAMW.beta2 ** (t + 1)));
          const decayed = matrices[i] ? value * (1 - rates[t] * ADAMW.weightDecay) : value;
          list[j] = decayed - (rates[t] * unbiased) / (deviation + ADAMW.epsilon);
        }),
      );
    });
    return values;
  }

  before(() => tf.setBackend('cpu'));

  it('equals a plain float64 implementation over 30 steps, clipped and not', async () => {
    const draw = normal(11);
    const shapes = [[3, 4], [5], [2, 2]];
    const list = (scale: number) =>
      shapes.map((shape) => Array.from({length: tf.util.sizeFromShape(shape)}, () => scale * draw()));
    const start = list(1);
    const gradients = Array.from({length: 30}, (_, t) => list(t % 3 === 0 ? 2 : 0.05));
    const rates = gradients.map((_, t) => learningRate(t, 30, 0.01, 4));
    const wanted = adamwFloat64(start, gradients, [true, false, true], rates);

    const variables = start.map((values, i) => tf.variable(tf.tensor(values, shapes[i])));
    const optimizer = new AdamW(variables);
    for (const [t, step] of gradients.entries()) {
      const tensors = step.map((values, i) => tf.tensor(values, shapes[i]));
      const norm = optimizer.step(tensors, rates[t]);
      const expected = Math.sqrt(step.flat().reduce((sum, g) => sum + g * g, 0));
      expect((await norm.data())[0]).to.be.closeTo(expected, 1e-5 * expected);
      tf.dispose([tensors, norm]);
    }
    for (const [i, variable] of variables.entries()) {
      const got = Array.from(await variable.data());
      wanted[i].forEach((value, j) => expect(got[j]).to.be.closeTo(value, 2e-6));
    }
    optimizer.dispose();
    tf.dispose(variables);
  });

  it('warms up linearly, then falls along a cosine to a tenth', () => {
    const rates = Array.from({length: 101}, (_, step) => learningRate(step, 100, 2, 10));
    expect(rates[0]).to.be.closeTo(0.2, 1e-12);
    expect(rates[9]).to.be.closeTo(2, 1e-12);
    expect(rates[55]).to.be.closeTo(1.1, 1e-12);
    expect(rates[100]).to.be.closeTo(0.2, 1e-12);
  });
});

describe('example: model in training', () => {
  before(() => tf.setBackend('cpu'));

  it('ignores labels of -100', async () => {
    const logits = tf.tensor2d([
      [1, 2, 3],
      [3, 0, -1],
      [0, 5, 0],
    ]);
    const loss = crossEntropy(logits, tf.tensor1d([2, IGNORED, 0], 'int32'));
    const nats = (row: number[], label: number) =>
      Math.log(row.reduce((sum, logit) => sum + Math.exp(logit), 0)) - row[label];
    expect((await loss.data())[0]).to.be.closeTo((nats([1, 2, 3], 2) + nats([0, 5, 0], 0)) / 2, 1e-5);
  });

  it('keeps documents apart: the same token sees no neighbour, in the loss and in the gradient', async () => {
    const documents = tinyDocuments(5, 3);
    const decoder = new Decoder(TINY, freshWeights(TINY, normal(1)));
    const gradient = async (rows: ReturnType<typeof packDocuments>) => {
      const batch = toBatch(rows);
      const {value, grads} = tf.variableGrads(
        () => crossEntropy(decoder.logits(batch, flashAttention(batch.mask)), batch.labels),
        [...decoder.weights.values()],
      );
      const values = await Promise.all(Object.values(grads).map((grad) => grad.data()));
      return [...(await value.data()), ...values.flatMap((data) => Array.from(data))];
    };
    const packed = await gradient(packDocuments(documents, 80));
    const alone = await gradient(documents.flatMap((document) => packDocuments([document], 16)));
    expect(Math.max(...packed.map((value, i) => Math.abs(value - alone[i])))).to.be.below(1e-5);
    decoder.dispose();
  });

  it('gives the same losses with both attentions over 20 steps; a mask that forgets the documents does not', async () => {
    const rows = packDocuments(tinyDocuments(40, 5), 64);
    const weights = freshWeights(TINY, normal(2));
    const run = async (kind: 'flash' | 'dense', forget: boolean): Promise<number[]> => {
      const trainer = new Trainer(kind, TINY, weights);
      const losses: number[] = [];
      for (let step = 0; step < 20; step++) {
        const batch = toBatch(rowsOfStep(rows, 2, 1, step));
        const mask = forget ? masks.causal(64) : batch.mask;
        losses.push((await trainer.step({...batch, mask}, 3e-3)).loss);
        batch.dispose();
      }
      trainer.dispose();
      return losses;
    };
    const flash = await run('flash', false);
    const difference = (other: number[]): number => Math.max(...flash.map((loss, i) => Math.abs(loss / other[i] - 1)));
    expect(flash.at(-1)).to.be.below(0.98 * flash[0]);
    expect(difference(await run('dense', false))).to.be.below(1e-5);
    expect(difference(await run('dense', true))).to.be.above(1e-3);
  });

  it('leaks no tensor over steps, evaluations and disposal', async () => {
    const rows = packDocuments(tinyDocuments(30, 6), 32);
    clearBoundsCache();
    const before = tf.memory().numTensors;
    const trainers = (['flash', 'dense'] as const).map(
      (kind) => new Trainer(kind, TINY, freshWeights(TINY, normal(3))),
    );
    const counts: number[] = [];
    for (let step = 0; step < 6; step++) {
      const batch = toBatch(rowsOfStep(rows, 2, 1, step));
      for (const trainer of trainers) {
        await trainer.step(batch, 1e-3);
        await trainer.evaluate(batch);
      }
      batch.dispose();
      clearBoundsCache();
      counts.push(tf.memory().numTensors);
    }
    expect(new Set(counts.slice(1)).size).to.equal(1);
    trainers.forEach((trainer) => trainer.dispose());
    expect(tf.memory().numTensors).to.equal(before);
  });

  it('gives finite weights where a row ends in padding', async () => {
    const rows = packDocuments([{tokens: [5, 6, 7], promptLength: 0}], 12);
    const batch = toBatch(rows);
    const bias = denseBias(batch.mask);
    const decoder = new Decoder(TINY, freshWeights(TINY, normal(4)));
    for (const attend of [flashAttention(batch.mask), denseAttention(bias)]) {
      const {grads} = tf.variableGrads(() => crossEntropy(decoder.logits(batch, attend), batch.labels));
      for (const grad of Object.values(grads)) {
        expect((await grad.data()).every(Number.isFinite)).to.equal(true);
      }
    }
    tf.dispose([bias]);
    decoder.dispose();
  });

  it('says which weight a model file lacks', () => {
    const weights = freshWeights(TINY, normal(5));
    weights.delete('blocks.1.ffn.W3');
    expect(() => new Decoder(TINY, weights)).to.throw(/blocks\.1\.ffn\.W3 of shape \[16,42\], got nothing/);
  });
});

describe('example: files', () => {
  let folder: string;
  beforeEach(() => (folder = temporary()));
  afterEach(() => rmSync(folder, {recursive: true, force: true}));

  const checkpoint = () => {
    const draw = normal(6);
    const tensors = freshWeights(TINY, draw);
    tensors.set('adamw.mean', {shape: [3], data: Float32Array.of(1e-30, -0, 3.5)});
    const tokenizer = Tokenizer.train('a b ab ▁ é\n', 20);
    const settings = {steps: 9, batch: 2, rowTokens: 16, learningRate: 1e-3, seed: 4};
    return {config: TINY, tensors, tokenizer, settings, losses: [4.25, 3.5]};
  };

  it('reads back a checkpoint as it was', () => {
    const saved = checkpoint();
    saveCheckpoint(folder, saved);
    const loaded = loadCheckpoint(folder);
    expect(loaded.tensors).to.deep.equal(saved.tensors);
    expect([...weightShapes(TINY).keys()].every((name) => loaded.tensors.has(name))).to.equal(true);
    expect(loaded.config).to.deep.equal(saved.config);
    expect(loaded.settings).to.deep.equal(saved.settings);
    expect(loaded.losses).to.deep.equal(saved.losses);
    expect(loaded.tokenizer.vocab).to.deep.equal(saved.tokenizer.vocab);
    expect(readdirSync(folder)).to.deep.equal(['checkpoint.safetensors']);
  });

  it('replaces a checkpoint as a whole: a failed write leaves the old one', () => {
    saveCheckpoint(folder, checkpoint());
    const path = join(folder, 'checkpoint.safetensors');
    const old = readFileSync(path);
    const bad = new Map([['x', {shape: [1], data: null as unknown as Float32Array}]]);
    expect(() => writeSafetensors(path, {tensors: bad, metadata: {}})).to.throw();
    expect(readFileSync(path).equals(old)).to.equal(true);
    expect(readdirSync(folder)).to.deep.equal(['checkpoint.safetensors']);
  });

  it('says when a checkpoint is absent, cut short, or of another program', () => {
    expect(() => loadCheckpoint(folder)).to.throw(/--resume: there is no .*checkpoint\.safetensors/);
    const path = join(folder, 'checkpoint.safetensors');
    saveCheckpoint(folder, checkpoint());
    truncateSync(path, 4000);
    expect(() => loadCheckpoint(folder)).to.throw(/no complete \.safetensors file/);
    writeFileSync(path, 'hello');
    expect(() => loadCheckpoint(folder)).to.throw(/no complete \.safetensors file/);
    writeSafetensors(path, {tensors: new Map(), metadata: {}});
    expect(() => loadCheckpoint(folder)).to.throw(/not a checkpoint of this program/);
  });

  it("writes what Python's safetensors reads", function () {
    const python = process.env.FLASHMASK_PYTHON ?? 'python3';
    const probe = spawnSync(python, ['-c', 'import safetensors.numpy'], {encoding: 'utf8'});
    if (probe.status !== 0) {
      console.log(`      skipped: ${probe.error?.message ?? `${python}: ${probe.stderr.trim().split('\n').at(-1)}`}`);
      this.skip();
    }
    const path = join(folder, 'a.safetensors');
    const tensors = new Map([
      ['a.b', {shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6.5)}],
      ['scalar', {shape: [], data: Float32Array.of(-7)}],
    ]);
    writeSafetensors(path, {tensors, metadata: {é: 'ü'}});
    const script = `
import json, sys
from safetensors import safe_open
from safetensors.numpy import save_file
with safe_open(sys.argv[1], 'np') as f:
    tensors = {name: f.get_tensor(name) for name in f.keys()}
    print(json.dumps([{n: [t.shape, t.ravel().tolist(), str(t.dtype)] for n, t in tensors.items()}, f.metadata()]))
save_file(tensors, sys.argv[2], {'x': 'y'})`;
    const back = join(folder, 'b.safetensors');
    const run = spawnSync(python, ['-c', script, path, back], {encoding: 'utf8'});
    expect(run.status, run.stderr).to.equal(0);
    const wanted = {'a.b': [[2, 3], [1, 2, 3, 4, 5, 6.5], 'float32'], scalar: [[], [-7], 'float32']};
    expect(JSON.parse(run.stdout)).to.deep.equal([wanted, {é: 'ü'}]);
    const read = readSafetensors(back);
    expect(new Map([...read.tensors].sort())).to.deep.equal(tensors);
    expect(read.metadata).to.deep.equal({x: 'y'});
  });

  /** A version 1 .npy file. */
  const npy = (descr: string, shape: string, body: Uint8Array): Uint8Array => {
    const header = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${shape}), }`.padEnd(117) + '\n';
    const prefix = Buffer.concat([
      Buffer.from('\x93NUMPY\x01\x00', 'latin1'),
      Buffer.from([header.length & 255, header.length >> 8]),
    ]);
    return new Uint8Array(Buffer.concat([prefix, Buffer.from(header, 'latin1'), body]));
  };

  it('reads float16, float32, float64 arrays and a text from .npz', () => {
    // 1, -2, 65504, the smallest half, -0, 0.333251953125
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

  it('refuses arrays that it cannot read, naming them', () => {
    const zip = (body: Uint8Array) => zipSync({'x.npy': body});
    expect(() => readNpz(zip(npy('<i8', '1,', new Uint8Array(8))))).to.throw(/x\.npy holds <i8/);
    expect(() => readNpz(zip(npy('<f4', '3,', new Uint8Array(8))))).to.throw(/12 bytes, got 8/);
    expect(() => readNpz(zip(new Uint8Array(20)))).to.throw(/x\.npy is not a NumPy array/);
    expect(() => readNpz(new Uint8Array(50))).to.throw();
  });

  it('draws a loss chart of any length', () => {
    for (const count of [1, 2, 59, 60, 61, 1000]) {
      const chart = lossChart(Array.from({length: count}, (_, i) => 5 - i / count));
      expect(chart.split('\n').length).to.be.within(2, 13);
      expect(Math.max(...chart.split('\n').map((line) => line.length))).to.be.below(80);
      expect(chart).to.include(`step 1 to ${count}`);
    }
  });

  it('formats times and shuffles reproducibly', () => {
    expect([0, 59.6, 95, 3600].map(formatSeconds)).to.deep.equal(['0s', '1m00s', '1m35s', '60m00s']);
    const items = [...Array(50).keys()];
    expect(shuffled(items, uniform(1))).to.deep.equal(shuffled(items, uniform(1)));
    expect(shuffled(items, uniform(1))).to.not.deep.equal(shuffled(items, uniform(2)));
    expect(shuffled(items, uniform(1)).sort((a, b) => a - b)).to.deep.equal(items);
  });
});
