/**
 * @file Python's Keras judges the layers: outputs and gradients of the same weights, models that Keras wrote and tfjs
 * loads, and models that tfjs saved and Keras loads. `npm run test:all` runs it, in a Python with Keras, or in a
 * virtual environment that it makes (pip downloads 150 MB, once). Skipped with the reason where that cannot be.
 */
import {spawnSync} from 'node:child_process';
import {mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {FlashMaskMultiHeadAttention, fromKeras} from '../../src/entries/layers.js';
import {full} from '../support/full.js';
import {kerasPython} from '../support/keras_python.js';
import {artifactsOf} from '../support/saved_model.js';
import {skip} from '../support/skip.js';

const script = fileURLToPath(new URL('../support/keras_judge.py', import.meta.url));

/** What keras_judge.py writes of a model. */
interface Judgement {
  inputs: number[][] | number[][][];
  factors: number[][][];
  output: number[];
  gradients: Record<string, number[]>;
}

const read = (...path: string[]): unknown => JSON.parse(readFileSync(join(...path), 'utf8'));

/** The folder's model.json and its weights, as a handler of tfjs. */
function folderHandler(folder: string): tf.io.IOHandler {
  const {modelTopology, weightsManifest} = read(folder, 'model.json') as tf.io.ModelJSON;
  const [{paths, weights}] = weightsManifest;
  const {buffer} = Uint8Array.from(readFileSync(join(folder, paths[0])));
  return tf.io.fromMemory({modelTopology: modelTopology as object, weightSpecs: weights, weightData: buffer});
}

async function saveTo(folder: string, model: tf.LayersModel): Promise<void> {
  const {modelTopology, weightSpecs, weightData} = await artifactsOf(model);
  const weightsManifest = [{paths: ['weights.bin'], weights: weightSpecs}];
  mkdirSync(folder, {recursive: true});
  writeFileSync(join(folder, 'model.json'), JSON.stringify({modelTopology, weightsManifest}));
  writeFileSync(join(folder, 'weights.bin'), new Uint8Array(tf.io.CompositeArrayBuffer.join(weightData)));
}

/** The tensors of a model's inputs: token ids where it has an embedding, else sequences. */
function tensorsOf({inputs}: Judgement, {inputs: symbolic}: tf.LayersModel): tf.Tensor[] {
  return symbolic.map(({dtype}, i) => tf.tensor(inputs[i], undefined, dtype as 'int32'));
}

async function expectClose(got: tf.Tensor, wanted: number[], what: string): Promise<void> {
  const values = await got.data();
  expect(values.length, what).to.equal(wanted.length);
  const largest = Math.max(...wanted.map(Math.abs));
  const error = wanted.reduce((most, value, i) => Math.max(most, Math.abs(value - values[i])), 0);
  expect(error, what).to.be.below(1e-5 * largest + 1e-6);
}

/** Models of tfjs that Keras loads, with their inputs. */
function ownModels(): Record<string, [tf.LayersModel, tf.Tensor[]]> {
  const x = tf.randomNormal([2, 6, 8], 0, 1, 'float32', 1);
  const y = tf.randomNormal([2, 4, 5], 0, 1, 'float32', 2);
  const self = (args: object): [tf.LayersModel, tf.Tensor[]] => {
    const input = tf.input({shape: [6, 8]});
    const attended = new FlashMaskMultiHeadAttention({
      numHeads: 4,
      keyDim: 3,
      biasInitializer: 'randomNormal',
      ...args,
    });
    const sum = tf.layers.add().apply([input, attended.apply(input) as tf.SymbolicTensor]);
    const outputs = tf.layers.dense({units: 3, activation: 'relu'}).apply(sum) as tf.SymbolicTensor;
    return [tf.model({inputs: input, outputs}), [x]];
  };
  const [query, value] = [tf.input({shape: [6, 8]}), tf.input({shape: [4, 5]})];
  const cross = new FlashMaskMultiHeadAttention({numHeads: 2, keyDim: 4, outputShape: 3});
  const ids = tf.input({shape: [6], dtype: 'int32'});
  const embedded = tf.layers.embedding({inputDim: 9, outputDim: 8, maskZero: true}).apply(ids);
  const padded = new FlashMaskMultiHeadAttention({numHeads: 2, keyDim: 4, useCausalMask: true}).apply(embedded);
  const tokens = tf.tensor2d([[5, 3, 8, 1, 2, 4], [1, 2, 2, 3, 1, 7]], undefined, 'int32'); // prettier-ignore
  return {
    multi_head: self({useCausalMask: true}),
    grouped: self({numKeyValueHeads: 2, useBias: false}),
    cross: [tf.model({inputs: [query, value], outputs: cross.apply([query, value]) as tf.SymbolicTensor}), [x, y]],
    padded: [tf.model({inputs: ids, outputs: padded as tf.SymbolicTensor}), [tokens]],
  };
}

describe('Keras as judge', () => {
  const folder = mkdtempSync(join(tmpdir(), 'flashmask-keras-'));
  const own: ReturnType<typeof ownModels> = {};

  before(async function () {
    if (!full) skip(this, 'npm run test:all asks Keras');
    const found = kerasPython();
    if ('reason' in found) skip(this, `no Python with Keras: ${found.reason}`);
    await tf.setBackend('cpu');
    Object.assign(own, ownModels());
    for (const [name, [model, inputs]] of Object.entries(own)) {
      const at = join(folder, 'tfjs', name);
      await saveTo(at, model);
      const given = inputs.map((x) => [x.arraySync(), x.dtype]);
      writeFileSync(join(at, 'inputs.json'), JSON.stringify(given));
    }
    const run = spawnSync(found.command, ['-W', 'ignore', script, folder], {encoding: 'utf8', cwd: dirname(script)});
    if (run.status !== 0) throw new Error(`keras_judge.py failed: ${run.stderr}`);
    console.log(`      ${run.stderr.trim().split('\n').at(-1)!}`);
  });

  after(() => {
    rmSync(folder, {recursive: true, force: true});
  });

  it('has the same outputs and gradients for its models, which fromKeras loads', async () => {
    for (const name of readdirSync(join(folder, 'keras'))) {
      const judgement = read(folder, 'keras', name, 'numbers.json') as Judgement;
      const model = await tf.loadLayersModel(fromKeras(folderHandler(join(folder, 'keras', name))));
      const inputs = tensorsOf(judgement, model);
      const factors = tf.tensor3d(judgement.factors);
      const run = (): tf.Tensor => model.apply(inputs, {training: true}) as tf.Tensor;
      // Only where the loss looks: the rows of padding differ.
      const seen = tf.tensor(judgement.output, factors.shape).mul(factors);
      await expectClose(run().mul(factors), Array.from(await seen.data()), `${name}: output`);
      const variables = model.trainableWeights.map((weight) => weight.read() as tf.Variable);
      const {grads} = tf.variableGrads(() => run().mul(factors).sum(), variables);
      expect(variables).to.have.length(Object.keys(judgement.gradients).length);
      for (const {originalName, name: unique} of model.trainableWeights) {
        await expectClose(grads[unique], judgement.gradients[originalName], `${name}: gradient of ${originalName}`);
      }
    }
  });

  it('loads models that tfjs saved, and fromKeras loads them back', async () => {
    for (const [name, [model, inputs]] of Object.entries(own)) {
      const output = read(folder, 'tfjs', name, 'output.json') as number[];
      await expectClose(model.predict(inputs) as tf.Tensor, output, name);
      const back = await tf.loadLayersModel(fromKeras(folderHandler(join(folder, 'tfjs', name, 'back'))));
      await expectClose(back.predict(inputs) as tf.Tensor, output, `${name}, back`);
    }
  });
});
