/** @file Models of tf.layers with this library's layers, on every device: training, saving, padding masks, caches. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {type FlashMask, masks} from '../../src/entries/index.js';
import {
  type DecoderBlockArgs,
  FlashMaskBounds,
  FlashMaskMultiHeadAttention,
  type FlashMaskMultiHeadAttentionArgs,
  KeyValueCache,
  type MaskConfig,
  transformerDecoderBlock,
} from '../../src/entries/layers.js';
import {HEAD_SIZE} from '../support/cases.js';
import {onEachDevice, slackOf} from '../support/devices.js';
import {savedAndLoaded} from '../support/saved_model.js';

const VOCABULARY = 11;
const CHANNELS = 12;
/** More than the few queries that have shaders of their own on WebGPU. */
const S = 18;

const seededInitializer = (seed: number) => tf.initializers.randomNormal({mean: 0, stddev: 0.4, seed});
const tokensOf = (rows: number[][]): tf.Tensor2D => tf.tensor2d(rows, undefined, 'int32');
const drawRows = (batch: number, length = S): number[][] =>
  Array.from({length: batch}, (_, b) =>
    Array.from({length}, (_, i) => 1 + ((i * i + 3 * b * i + b) % (VOCABULARY - 1))),
  );

const embed = (ids: tf.SymbolicTensor, seed: number, maskZero = false): tf.SymbolicTensor =>
  tf.layers
    .embedding({inputDim: VOCABULARY, outputDim: CHANNELS, embeddingsInitializer: seededInitializer(seed), maskZero})
    .apply(ids) as tf.SymbolicTensor;

const attention = (args: Partial<FlashMaskMultiHeadAttentionArgs> = {}): FlashMaskMultiHeadAttention =>
  new FlashMaskMultiHeadAttention({numHeads: 2, keyDim: HEAD_SIZE, kernelInitializer: seededInitializer(5), ...args});

const inputOf = (length: number | null = null): tf.SymbolicTensor => tf.input({shape: [length], dtype: 'int32'});

/** A decoder of one block; `documents` adds an input. */
function decoder(args: Partial<DecoderBlockArgs>, documents: boolean): tf.LayersModel {
  const ids = inputOf();
  const x = embed(ids, 1);
  const docs = documents ? inputOf() : null;
  const bounds = docs && new FlashMaskBounds({of: 'documents', useCausalMask: true}).apply(docs);
  const inputs = bounds ? [x, bounds as tf.SymbolicTensor] : [x];
  const block = transformerDecoderBlock(inputs, {
    numHeads: 2,
    keyDim: HEAD_SIZE,
    intermediateDim: 20,
    kernelInitializer: seededInitializer(3),
    ...args,
  });
  const logits = tf.layers.dense({units: VOCABULARY, activation: 'softmax', kernelInitializer: seededInitializer(4)});
  return tf.model({inputs: docs ? [ids, docs] : [ids], outputs: logits.apply(block) as tf.SymbolicTensor});
}

/** A layer that no model calls, with the weights of another one. */
function layerCopy(layer: tf.layers.Layer, args: Partial<FlashMaskMultiHeadAttentionArgs>): tf.layers.Layer {
  return attention({...args, weights: layer.getWeights()});
}

const predict = (model: tf.LayersModel, inputs: tf.Tensor | tf.Tensor[]): tf.Tensor =>
  model.predict(inputs) as tf.Tensor;

async function difference(a: tf.Tensor, b: tf.Tensor): Promise<number> {
  expect(a.shape).to.deep.equal(b.shape);
  return (await a.sub(b).abs().max().data())[0];
}

onEachDevice((device) => {
  const close = 2e-6 * slackOf(device);

  describe('models with FlashMaskMultiHeadAttention', () => {
    it('train every weight on packed texts, and give the same after save and load', async () => {
      const model = decoder({ropeMaxWavelength: 100, numKeyValueHeads: 1, dropout: 0.1, seed: 1}, true);
      // tfjs's wasm backend has no gradient of an embedding.
      model.layers.find(({name}) => name.startsWith('embed'))!.trainable = device.name !== 'composed';
      const rows = drawRows(5);
      const inputs = [tokensOf(rows), tokensOf(rows.map((row) => row.map((_, i) => (i < 7 ? 0 : 1))))];
      const next = tf.tensor3d(rows.map((row) => row.map((_, i) => [row[(i + 1) % S]])));
      model.compile({optimizer: tf.train.adam(0.02), loss: 'sparseCategoricalCrossentropy'});
      const before = await Promise.all(model.getWeights().map((weight) => weight.data()));
      const options = {epochs: 1, batchSize: 2, verbose: 0, shuffle: false} as const;
      const first = await model.fit(inputs, next, options);
      const {numTensors} = tf.memory();
      const last = await model.fit(inputs, next, {...options, epochs: 3});
      expect(tf.memory().numTensors).to.equal(numTensors);
      expect(Number(last.history.loss[2])).to.be.below(Number(first.history.loss[0]));
      const after = await Promise.all(model.getWeights().map((weight) => weight.data()));
      const names = model.weights.map(({name}) => name);
      expect(names.filter((name) => /query|key|value|attention_output/.test(name))).to.have.length(8);
      // Scores are the same for any bias of the keys.
      const moved = names.filter((_, i) => after[i].some((value, n) => Math.abs(value - before[i][n]) > 1e-4));
      const fixed = device.name === 'composed' ? /key.bias|embeddings/ : /key.bias/;
      expect(moved).to.include.members(names.filter((name) => !fixed.test(name)));

      const loaded = await savedAndLoaded(model);
      expect(await difference(predict(model, inputs), predict(loaded, inputs))).to.equal(0);
      expect(await device.hiddenErrors()).to.deep.equal([]);
      model.dispose();
      loaded.dispose();
    });

    it('show a packed text what it sees alone', async () => {
      const model = decoder({}, true);
      const [row] = drawRows(1);
      const packed = predict(model, [tokensOf([row]), tokensOf([row.map((_, i) => (i < 8 ? 0 : 1))])]);
      const alone = predict(model, [tokensOf([row.slice(8)]), tokensOf([Array<number>(S - 8).fill(0)])]);
      expect(await difference(packed.slice([0, 8], [1, S - 8]), alone)).to.be.below(close);
      model.dispose();
    });

    it('obey the padding mask of an embedding, also after a residual sum', async () => {
      const ids = inputOf(S);
      const x = embed(ids, 1, true);
      const first = tf.layers.add().apply([x, attention().apply(x) as tf.SymbolicTensor]) as tf.SymbolicTensor;
      const output = attention({useCausalMask: true}).apply(first) as tf.SymbolicTensor;
      const model = tf.model({inputs: ids, outputs: output});
      const rows = drawRows(2);
      const padded = predict(model, tokensOf([[...rows[0].slice(0, 9), ...Array<number>(S - 9).fill(0)], rows[1]]));
      const alone = tf.tidy(() => {
        const text = tf.gather(x.sourceLayer.getWeights()[0], tokensOf([rows[0].slice(0, 9)]));
        const [one, two] = model.layers.filter(({name}) => name.startsWith('flash_mask'));
        const sum = text.add(layerCopy(one, {}).apply(text) as tf.Tensor);
        return layerCopy(two, {useCausalMask: true}).apply(sum) as tf.Tensor;
      });
      expect(await difference(padded.slice([0, 0], [1, 9]), alone)).to.be.below(close);
      model.dispose();
    });

    it('take no mask that belongs to other tokens', async () => {
      // tfjs hands the encoder's mask on to the decoder's first layer.
      const [source, target] = [inputOf(S), inputOf(S)];
      const encoded = attention().apply(embed(source, 1, true)) as tf.SymbolicTensor;
      const pooled = tf.layers.globalAveragePooling1d().apply(encoded) as tf.SymbolicTensor;
      const decoded = attention({name: 'decoder'}).apply(embed(target, 2)) as tf.SymbolicTensor;
      const sum = tf.layers.add().apply([tf.layers.repeatVector({n: S}).apply(pooled) as tf.SymbolicTensor, decoded]);
      const model = tf.model({inputs: [source, target], outputs: [sum as tf.SymbolicTensor, decoded]});
      const rows = drawRows(2);
      const padded = rows.map((row) => row.map((token, i) => (i < 4 ? token : 0)));
      const outputs = [rows, padded].map(
        (sources) => model.predict([tokensOf(sources), tokensOf(rows)]) as tf.Tensor[],
      );
      expect(await difference(outputs[0][1], outputs[1][1])).to.equal(0);
      expect(await difference(outputs[0][0], outputs[1][0])).to.be.above(0.01);
      model.dispose();
    });

    it('see the tokens of a padded text from another one', async () => {
      const [source, target] = [inputOf(S), inputOf(S)];
      const bounds = new FlashMaskBounds({of: 'tokens', crossAttention: true}).apply(source) as tf.SymbolicTensor;
      const text = embed(target, 1);
      const [masked, plain] = [true, false].map((maskZero) => embed(source, 2, maskZero));
      const tanh = (x: tf.SymbolicTensor): tf.SymbolicTensor =>
        tf.layers.activation({activation: 'tanh'}).apply(x) as tf.SymbolicTensor;
      const inputs = [
        [text, plain, bounds],
        [text, masked],
        // tfjs does not hand on the mask of this value; the bounds say what it says.
        [text, tanh(masked), bounds],
        [text, tanh(plain), bounds],
      ];
      const outputs = inputs.map((x) => attention({useCausalMask: false}).apply(x) as tf.SymbolicTensor);
      const model = tf.model({inputs: [source, target], outputs});
      const rows = drawRows(2);
      const padded = rows.map((row, b) => row.map((token, i) => (i < 4 + 5 * b ? token : 0)));
      const [a, b, c, d] = model.predict([tokensOf(padded), tokensOf(rows)]) as tf.Tensor[];
      expect(await difference(a, b)).to.be.below(close);
      expect(await difference(c, d)).to.be.below(close);
      const [unpadded] = model.predict([tokensOf(rows), tokensOf(rows)]) as tf.Tensor[];
      expect(await difference(a, unpadded)).to.be.above(0.01);
      model.dispose();
    });

    const windows: [string, MaskConfig | null][] = [
      ['all earlier tokens', null],
      ['a window', {builder: 'slidingWindow', args: [4]}],
    ];
    for (const [name, mask] of windows) {
      it(`generate with a cache what they give for whole texts, with ${name}`, async () => {
        const model = decoder({mask, ropeMaxWavelength: 100}, false);
        const rows = drawRows(2, 12);
        const whole = predict(model, tokensOf(rows));
        const {numTensors} = tf.memory();
        const cache = new KeyValueCache();
        const parts: tf.Tensor[] = [];
        for (const [from, to] of [
          [0, 5],
          [5, 6],
          [6, 7],
          [7, 10],
          [10, 12],
        ]) {
          // prettier-ignore
          parts.push(tf.tidy(() => cache.run(() => predict(model, tokensOf(rows.map((row) => row.slice(from, to)))))));
          expect(cache.length).to.equal(to);
        }
        expect(await difference(tf.tidy(() => tf.concat(parts, 1)), whole)).to.be.below(close); // prettier-ignore
        cache.dispose();
        tf.dispose(parts);
        expect(tf.memory().numTensors).to.be.at.most(numTensors + 8);
        model.dispose();
      });
    }

    it('generate with a cache from prompts that are padded on the left', async () => {
      const ids = inputOf();
      const output = attention({useCausalMask: true}).apply(embed(ids, 1, true)) as tf.SymbolicTensor;
      const model = tf.model({inputs: ids, outputs: output});
      const rows = [[0, 0, 0, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]]; // prettier-ignore
      const cache = new KeyValueCache();
      const prompt = cache.run(() => predict(model, tokensOf(rows.map((row) => row.slice(0, 5)))));
      const [sixth, seventh] = [5, 6].map((i) =>
        cache.run(() => predict(model, tokensOf(rows.map((row) => [row[i]])))),
      );
      const whole = predict(model, tokensOf(rows));
      const got = tf.concat([prompt, sixth, seventh], 1);
      expect(await difference(got.slice([0, 3], [2, 4]), whole.slice([0, 3], [2, 4]))).to.be.below(close);
      cache.dispose();
      model.dispose();
    });

    it('drop weights in training only, in the same places for the same seed', async () => {
      const x = tf.randomNormal([1, S, CHANNELS], 0, 1, 'float32', 1);
      const [one, two] = [0, 1].map(() => attention({dropout: 0.5, seed: 7}));
      const run = (layer: tf.layers.Layer, training: boolean): tf.Tensor => layer.apply(x, {training}) as tf.Tensor;
      const still = run(one, false);
      expect(await difference(run(one, false), still)).to.equal(0);
      const trained = [run(one, true), run(one, true)];
      run(two, false);
      expect(await difference(run(two, true), trained[0])).to.equal(0);
      expect(await difference(run(two, true), trained[1])).to.equal(0);
      expect(await difference(trained[0], still)).to.be.above(0.01);
      expect(await difference(trained[0], trained[1])).to.be.above(0.01);
    });

    it('hide padding under masks of every form', async () => {
      const forms: [Partial<FlashMaskMultiHeadAttentionArgs>, ((length: number) => FlashMask)?][] = [
        [{mask: {builder: 'slidingWindow', args: [3]}}],
        [{mask: {builder: 'window', args: [2]}}],
        [{mask: {builder: 'full'}}],
        [{mask: {builder: 'globalSlidingWindow', args: [1, 2]}}],
        [{mask: {builder: 'qkSparse', args: [[[2, 5]]]}}],
        [{useCausalMask: true}, (length) => masks.qkSparse(length, [[2, 5]])],
        [{useCausalMask: true}, (length) => masks.causalDocument([6, length - 6])],
      ];
      const [rows, counts] = [drawRows(2), [12, 15]];
      const padded = rows.map((row, b) => row.map((token, i) => (i < counts[b] ? token : 0)));
      for (const [args, boundsOf] of forms) {
        const [ids, bounds] = [inputOf(S), boundsOf && tf.input({shape: [1, S, boundsOf(S).vectors], dtype: 'int32'})];
        const x = embed(ids, 1, true);
        const layer = attention(args);
        const outputs = layer.apply(bounds ? [x, bounds] : x) as tf.SymbolicTensor;
        const model = tf.model({inputs: bounds ? [ids, bounds] : ids, outputs});
        const table = x.sourceLayer.getWeights()[0];
        const feed = boundsOf ? [tokensOf(padded), tf.tile(boundsOf(S).toTensor(), [2, 1, 1, 1])] : tokensOf(padded);
        const got = predict(model, feed);
        for (const [b, count] of counts.entries()) {
          const text = tf.gather(table, tokensOf([rows[b].slice(0, count)]));
          const alone = layerCopy(layer, args).apply(boundsOf ? [text, boundsOf(count).toTensor()] : text) as tf.Tensor;
          const error = await difference(got.slice([b, 0], [1, count]), alone);
          expect(error, JSON.stringify(args)).to.be.below(close);
        }
        model.dispose();
      }
      expect(await device.hiddenErrors()).to.deep.equal([]);
    });
  });
});
