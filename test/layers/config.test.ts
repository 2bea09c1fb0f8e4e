/** @file Arguments of the layers: what is saved and loaded, what is refused, and weights in Keras's layout. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {
  FlashMaskBounds,
  type FlashMaskBoundsArgs,
  FlashMaskMultiHeadAttention,
  type FlashMaskMultiHeadAttentionArgs,
  KeyValueCache,
} from '../../src/entries/layers.js';
import {artifactsOf, savedAndLoaded} from '../support/saved_model.js';

type Args = FlashMaskMultiHeadAttentionArgs;

const sizes = {numHeads: 4, keyDim: 2};
const layerOf = (args: Partial<Args> = {}): FlashMaskMultiHeadAttention =>
  new FlashMaskMultiHeadAttention({...sizes, ...args});
const modelOf = (layer: tf.layers.Layer, ...shapes: number[][]): tf.LayersModel => {
  const inputs = shapes.map((shape) => tf.input({shape}));
  return tf.model({inputs, outputs: layer.apply(inputs.length > 1 ? inputs : inputs[0]) as tf.SymbolicTensor});
};
const zeros = (...shape: number[]): tf.Tensor => tf.zeros(shape);

describe('FlashMaskMultiHeadAttention: arguments', () => {
  before(async () => {
    await tf.setBackend('cpu');
  });

  it('has the weights of Keras’s MultiHeadAttention, by name, shape and order', () => {
    const model = modelOf(layerOf({name: 'mha', valueDim: 3}), [5, 6], [4, 7], [4, 8]);
    expect(model.weights.map(({originalName, shape}) => [originalName, shape])).to.deep.equal([
      ['mha/query/kernel', [6, 4, 2]],
      ['mha/query/bias', [4, 2]],
      ['mha/key/kernel', [8, 4, 2]],
      ['mha/key/bias', [4, 2]],
      ['mha/value/kernel', [7, 4, 3]],
      ['mha/value/bias', [4, 3]],
      ['mha/attention_output/kernel', [4, 3, 6]],
      ['mha/attention_output/bias', [6]],
    ]);
  });

  it('has the weights of Keras’s GroupQueryAttention, without bias', () => {
    const model = modelOf(layerOf({name: 'gqa', numKeyValueHeads: 2, useBias: false}), [5, 6]);
    expect(model.weights.map(({shape}) => shape)).to.deep.equal([[6, 4, 2], [6, 2, 2], [6, 2, 2], [4, 2, 6]]); // prettier-ignore
  });

  it('keeps every argument when it is saved and loaded', async () => {
    const args: Partial<Args> = {
      ...{name: 'mine', trainable: false, valueDim: 3, numKeyValueHeads: 2, dropout: 0.25, seed: 5, useBias: false},
      ...{outputShape: 7, useCausalMask: false, ropeMaxWavelength: 500, precision: 'float32'},
      mask: {builder: 'window', args: [[Infinity, 2]]},
      kernelInitializer: tf.initializers.randomNormal({stddev: 0.1, seed: 3}),
      biasInitializer: 'ones',
      kernelRegularizer: tf.regularizers.l2({l2: 0.5}),
      biasRegularizer: 'l1l2',
      kernelConstraint: tf.constraints.maxNorm({maxValue: 3}),
      biasConstraint: 'nonNeg',
    };
    const model = modelOf(layerOf(args), [5, 6]);
    const loaded = await savedAndLoaded(model);
    const plain = (config: unknown): unknown => JSON.parse(JSON.stringify(config));
    const config = plain(model.layers[1].getConfig());
    expect(plain(loaded.layers[1].getConfig())).to.deep.equal(config);
    expect(config).to.deep.include({outputShape: 7, seed: 5, useCausalMask: false, precision: 'float32'});
    expect(config).to.have.nested.property('kernelConstraint.config.maxValue', 3);
    expect(config).to.have.nested.property('kernelInitializer.config.seed', 3);
    const x = tf.randomNormal([1, 5, 6]);
    const [a, b] = [model, loaded].map((one) => (one.predict(x) as tf.Tensor).dataSync());
    // tfjs applies constraints again to what it loads.
    a.forEach((value, i) => expect(b[i]).to.be.closeTo(value, 1e-6));
  });

  it('writes the names of Keras’s arguments', async () => {
    const {modelTopology} = await artifactsOf(modelOf(layerOf(), [5, 6]));
    const [, layer] = (modelTopology as {config: {layers: {class_name: string; config: object}[]}}).config.layers;
    expect(layer.class_name).to.equal('FlashMaskMultiHeadAttention');
    expect(layer.config).to.include.keys('num_heads', 'key_dim', 'value_dim', 'dropout', 'use_bias', 'output_shape');
  });

  it('adds the losses of its regularizers', () => {
    const model = modelOf(layerOf({kernelRegularizer: tf.regularizers.l2({l2: 1}), useBias: false}), [5, 6]);
    const [, layer] = model.layers;
    layer.setWeights(layer.getWeights().map((weight) => tf.ones(weight.shape)));
    const losses = layer.calculateLosses().map((loss) => loss.dataSync()[0]);
    expect(losses).to.deep.equal([48, 48, 48, 48]);
  });

  it('draws another kernel for each projection, also from a seed', () => {
    const weights = (seed: number): number[][] => {
      const layer = layerOf({kernelInitializer: tf.initializers.glorotUniform({seed}), useBias: false});
      layer.apply(zeros(1, 5, 8));
      return layer.getWeights().map((weight) => Array.from(weight.dataSync()));
    };
    expect(weights(3)).to.deep.equal(weights(3));
    expect(new Set(weights(3).map((kernel) => kernel[0])).size).to.equal(4);
  });

  it('counts as no dense layer', () => {
    const before = tf.layers.dense({units: 1}).name;
    layerOf().apply(zeros(1, 5, 8));
    const number = (name: string): number => Number(/\d+$/.exec(name)![0]);
    expect(number(tf.layers.dense({units: 1}).name)).to.equal(number(before) + 1);
  });

  const x = zeros(2, 5, 6);
  const build =
    (args: object): (() => unknown) =>
    () =>
      layerOf(args as Partial<Args>);
  const call =
    (args: Partial<Args>, inputs: tf.Tensor[]): (() => unknown) =>
    () =>
      layerOf(args).apply(inputs);
  const refusals: [name: string, call: () => unknown, message: RegExp][] = [
    ['an unknown argument', build({heads: 3}), /options must be among numHeads, .*, got 'heads'/],
    ['no heads', build({numHeads: 0}), /numHeads must be a positive integer, got 0/],
    ['large heads', build({valueDim: 300}), /valueDim must be at most 256, got 300/],
    ['groups that do not fit', build({numKeyValueHeads: 3}), /numHeads must be a multiple of .*, got 4 and 3/],
    ['a dropout of 1', build({dropout: 1}), /dropout must be a probability in \[0, 1\), got 1/],
    ['a word for true', build({useBias: 'yes'}), /useBias must be true or false, got 'yes'/],
    ['outputs of two axes', build({outputShape: [2, 3]}), /outputShape must be one number, got \[2, 3\]/],
    ['no wavelength', build({ropeMaxWavelength: 0}), /ropeMaxWavelength must be a positive number, got 0/],
    ['rotary heads of odd size', build({keyDim: 3, ropeMaxWavelength: 1}), /keyDim must be even, got 3/],
    [
      'an unknown builder',
      build({mask: {builder: 'padding'}}),
      /the builder of mask must be one of causal, .*'padding'/,
    ],
    ['another key of a mask', build({mask: {builder: 'full', length: 3}}), /options must be among builder, args/],
    ['arguments that are no array', build({mask: {builder: 'full', args: 3}}), /args of mask must be an array, got 3/],
    [
      'a number for options of a builder',
      call({mask: {builder: 'window', args: [2, 2]} as never}, [x]),
      /masks\.window: options must be an object, got 2/,
    ],
    ['inputs of rank 2', call({}, [zeros(2, 5)]), /the inputs must be \[query\], .*, got inputs of ranks \[2\]/],
    ['four sequences', call({}, [x, x, x, x]), /the inputs must be \[query\], .* \[3, 3, 3, 3\]/],
    [
      'a mask that is causal and shall not be',
      call({useCausalMask: false, mask: {builder: 'slidingWindow', args: [2]}}, [x]),
      /useCausalMask must agree with the mask 'slidingWindow' \(causal: true\), got false/,
    ],
    [
      'two vectors whose form nobody says',
      call({}, [x, tf.zeros([1, 1, 5, 2], 'int32')]),
      /with two vectors in the bounds useCausalMask must be given, got none\. .*LTS and LTE, .*LTS and UTE/,
    ],
    [
      'bounds beside a mask',
      call({mask: {builder: 'causal'}}, [x, tf.zeros([1, 1, 5, 1], 'int32')]),
      /the bounds come from one place, got a mask in the options and bounds as an input/,
    ],
    ['document ids of another text', call({}, [x, zeros(2, 4, 6), zeros(2, 4)]), /document ids are for self-attention/],
    [
      'document ids with a mask of four vectors',
      call({mask: {builder: 'globalSlidingWindow', args: [1, 1]}}, [x, zeros(2, 5)]),
      /document ids combine with masks that hide later rows only, got a mask of 4 vectors/,
    ],
    ['rotary positions of two texts', call({ropeMaxWavelength: 9}, [x, zeros(2, 5, 6)]), /is for self-attention/],
    [
      'causal attention to a text of another length',
      call({useCausalMask: true}, [x, zeros(2, 4, 6)]),
      /there must be as many queries as keys, got 5 queries and 4 keys/,
    ],
    [
      'channels that nobody knows',
      () => layerOf().apply(tf.input({shape: [5, null]})),
      /the channels of an input must be known/,
    ],
    ['an unknown precision', call({precision: 'half' as 'auto'}, [x]), /precision must be one of auto, .*, got 'half'/],
    [
      'a word for bounds',
      () => new FlashMaskBounds({of: 'words'} as unknown as FlashMaskBoundsArgs),
      /of must be 'docu/,
    ],
  ];
  for (const [name, refused, message] of refusals) {
    it(`refuses ${name}`, () => {
      expect(refused).to.throw(message);
    });
  }

  it('refuses the padding mask of a value that tfjs does not hand on, and says what to do', () => {
    const [source, text] = [tf.input({shape: [5], dtype: 'int32'}), tf.input({shape: [5, 6]})];
    const embedded = tf.layers.embedding({inputDim: 9, outputDim: 6, maskZero: true}).apply(source);
    const value = tf.layers.dense({units: 6}).apply(embedded) as tf.SymbolicTensor;
    const model = tf.model({inputs: [source, text], outputs: layerOf().apply([text, value]) as tf.SymbolicTensor});
    const inputs = [tf.ones([1, 5], 'int32'), zeros(1, 5, 6)];
    expect(() => model.predict(inputs)).to.throw(
      /hands on the padding mask of the first input only, .*FlashMaskBounds/,
    );
  });

  it('refuses the padding mask of a layer that it does not know', () => {
    class Odd extends tf.layers.Layer {
      static className = 'Odd';
      override supportsMasking = true;
      override call(inputs: tf.Tensor | tf.Tensor[]): tf.Tensor {
        return [inputs].flat()[0].clone();
      }
      override computeMask(): tf.Tensor {
        return tf.ones([1, 5], 'bool');
      }
    }
    const text = tf.input({shape: [5, 6]});
    const between = tf.layers.dense({units: 6}).apply(new Odd({}).apply(text));
    const outputs = layerOf().apply(between) as tf.SymbolicTensor;
    expect(() => tf.model({inputs: text, outputs}).predict(zeros(1, 5, 6))).to.throw(/must come from layers of tfjs/);
  });

  it('refuses to be called with a padding mask in one place and without in another', () => {
    const layer = layerOf();
    const [ids, text] = [tf.input({shape: [5], dtype: 'int32'}), tf.input({shape: [5, 6]})];
    const embedded = tf.layers.embedding({inputDim: 9, outputDim: 6, maskZero: true}).apply(ids);
    const outputs = [embedded, text].map((input) => layer.apply(input as tf.SymbolicTensor) as tf.SymbolicTensor);
    const model = tf.model({inputs: [ids, text], outputs});
    expect(() => model.predict([tf.ones([1, 5], 'int32'), zeros(1, 5, 6)])).to.throw(
      /must have a padding mask wherever/,
    );
  });

  describe('KeyValueCache', () => {
    const causal = (): tf.LayersModel => {
      const text = tf.input({shape: [null, 6]});
      return tf.model({inputs: text, outputs: layerOf({useCausalMask: true}).apply(text) as tf.SymbolicTensor});
    };
    const run = (cache: KeyValueCache, model: tf.LayersModel, batch = 1): tf.Tensor =>
      cache.run(() => model.predict(zeros(batch, 2, 6)) as tf.Tensor);

    it('refuses another model, another batch, and a run within a run; and stays as it was', () => {
      const [cache, model] = [new KeyValueCache(), causal()];
      run(cache, model);
      const {numTensors} = tf.memory();
      expect(() => run(cache, causal())).to.throw(/runs must call the same layers in the same order/);
      expect(() => run(cache, model, 2)).to.throw(/all runs must have 1 rows, got 2\. Call predict with \{batchSize\}/);
      expect(() => cache.run(() => run(cache, model))).to.throw(/one cache may run at a time/);
      expect(() => cache.run(() => zeros(1))).to.throw(/the model must call 1 attention layers, got 0/);
      expect(cache.length).to.equal(2);
      // The inputs of the calls that were refused: one for another model, two rows, and one within.
      expect(tf.memory().numTensors).to.be.at.most(numTensors + 8);
      run(cache, model);
      expect(cache.length).to.equal(4);
      cache.dispose();
      expect(cache.length).to.equal(0);
    });

    it('refuses layers that are not causal, and masks as inputs', () => {
      const other = modelOf(layerOf(), [2, 6]);
      expect(() => run(new KeyValueCache(), other)).to.throw(/must be causal .*, got useCausalMask: false/);
      const withIds = modelOf(layerOf({useCausalMask: true}), [2, 6], [2]);
      const call = (): tf.Tensor => withIds.predict([zeros(1, 2, 6), zeros(1, 2)]) as tf.Tensor;
      expect(() => new KeyValueCache().run(call)).to.throw(/must be causal .*, got document ids or bounds/);
    });
  });
});
