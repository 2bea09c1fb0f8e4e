/** @file fromKeras: models in the forms that Keras 2 and Keras 3 write, and what it refuses. */
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {FlashMaskMultiHeadAttention, fromKeras} from '../../src/entries/layers.js';

type Json = Record<string, unknown>;

/** How a version of Keras writes references, calls and types. */
interface Form {
  tensor: (layer: string) => unknown;
  call: (args: string[], kwargs?: Json) => unknown;
  dtype: unknown;
  shapeKey: string;
  ends: (layers: string[]) => unknown;
}

const keras2: Form = {
  tensor: (layer) => [layer, 0, 0],
  call: (args, kwargs = {}) => args.map((layer) => [layer, 0, 0, kwargs]),
  dtype: 'float32',
  shapeKey: 'batch_input_shape',
  ends: (layers) => layers.map((layer) => [layer, 0, 0]),
};

const keras3: Form = {
  tensor: (layer) => ({class_name: '__keras_tensor__', config: {shape: [null, 4, 6], keras_history: [layer, 0, 0]}}),
  call: (args, kwargs = {}) => ({args: args.length > 1 ? [args.map(keras3.tensor)] : args.map(keras3.tensor), kwargs}),
  dtype: {module: 'keras', class_name: 'DTypePolicy', config: {name: 'float32'}, registered_name: null},
  shapeKey: 'batch_shape',
  // Keras 3 writes a single one without a list.
  ends: (layers) => (layers.length > 1 ? layers.map((layer) => [layer, 0, 0]) : [layers[0], 0, 0]),
};

const MHA = {num_heads: 2, key_dim: 3, dropout: 0, use_bias: true, attention_axes: [1], use_gate: false};
const GQA = {head_dim: 3, num_query_heads: 2, num_key_value_heads: 1, sliding_window: 2, flash_attention: null};

/** A model of two inputs whose attention layer is called as given. */
function topology(form: Form, class_name: string, config: Json, call: unknown): Json {
  const {dtype} = form;
  const layer = (name: string, kind: string, own: Json, nodes: unknown[]): Json => ({
    ...{name, class_name: kind, inbound_nodes: nodes},
    config: {name, dtype, ...own},
  });
  const input = (name: string): Json =>
    layer(name, 'InputLayer', {[form.shapeKey]: [null, 4, 6], dtype: 'float32'}, []);
  const layers = [
    ...[input('a'), input('b')],
    layer('mha', class_name, config, [call]),
    layer('sum', 'Add', {}, [form.call(['mha', 'b'])]),
    layer('end', 'Dense', {units: 2, activation: 'linear', use_bias: true}, [form.call(['sum'])]),
  ];
  const ends = {input_layers: form.ends(['a', 'b']), output_layers: form.ends(['end'])};
  return {model_config: {class_name: 'Functional', config: {name: 'model', layers, ...ends}}};
}

async function load(modelTopology: Json): Promise<tf.LayersModel> {
  return tf.loadLayersModel(fromKeras(tf.io.fromMemory({modelTopology})));
}

/** The attention layer of a loaded model, and how many sequences it gets. */
async function attentionOf(modelTopology: Json): Promise<{config: Json; inputs: number}> {
  const layer = (await load(modelTopology)).getLayer('mha');
  expect(layer).to.be.instanceOf(FlashMaskMultiHeadAttention);
  return {config: layer.getConfig(), inputs: [layer.input].flat().length};
}

describe('fromKeras', () => {
  before(async () => {
    await tf.setBackend('cpu');
  });

  for (const [version, form] of Object.entries({keras2, keras3})) {
    const positional = (...names: string[]): unknown =>
      form === keras2 ? null : {args: names.map(form.tensor), kwargs: {use_causal_mask: true, query_mask: null}};
    const named = (query: string, value: string, more: Json = {}): unknown =>
      form.call([query], {value: form.tensor(value), ...more});

    it(`${version}: self-attention, causal as the call says`, async () => {
      const given = topology(form, 'MultiHeadAttention', MHA, named('a', 'a', {use_causal_mask: true, training: null}));
      const {config, inputs} = await attentionOf(given);
      expect(inputs).to.equal(1);
      expect(config).to.deep.include({numHeads: 2, keyDim: 3, useCausalMask: true, mask: null});
      // The description itself stays as it was.
      expect(JSON.stringify(given)).to.include('MultiHeadAttention').and.not.include('FlashMask');
    });

    it(`${version}: cross-attention, with a key of its own`, async () => {
      expect((await attentionOf(topology(form, 'MultiHeadAttention', MHA, named('a', 'b')))).inputs).to.equal(2);
      const withKey = named('a', 'b', {key: form.tensor('a')});
      expect((await attentionOf(topology(form, 'MultiHeadAttention', MHA, withKey))).inputs).to.equal(3);
    });

    it(`${version}: grouped heads with a sliding window`, async () => {
      const call = named('b', 'b', {use_causal_mask: true});
      const {config} = await attentionOf(topology(form, 'GroupQueryAttention', GQA, call));
      expect(config).to.deep.include({numHeads: 2, keyDim: 3, numKeyValueHeads: 1});
      expect(config.mask).to.deep.equal({builder: 'window', args: [1]});
    });

    it(`${version}: the model computes`, async () => {
      const model = await load(topology(form, 'MultiHeadAttention', MHA, named('a', 'a')));
      const output = model.predict([tf.ones([1, 4, 6]), tf.ones([1, 4, 6])]) as tf.Tensor;
      expect(output.shape).to.deep.equal([1, 4, 2]);
    });

    if (form === keras3) {
      it(`${version}: positional arguments`, async () => {
        const {config, inputs} = await attentionOf(topology(form, 'MultiHeadAttention', MHA, positional('a', 'b')));
        expect([inputs, config.useCausalMask]).to.deep.equal([2, true]);
      });
    }

    const refusals: [string, Json, Json, RegExp][] = [
      [
        'an attention mask',
        MHA,
        {attention_mask: form.tensor('b')},
        /calls of 'mha' must have no other .*attention_mask/,
      ],
      ['scores as a result', MHA, {return_attention_scores: true}, /got return_attention_scores\. Give document ids/],
      [
        'attention over other axes',
        {...MHA, attention_axes: [2]},
        {},
        /attention_axes of 'mha' must be null, got \[2\]/,
      ],
      ['a gate', {...MHA, use_gate: true}, {}, /use_gate of 'mha' must be false, got true/],
    ];
    for (const [name, config, kwargs, message] of refusals) {
      it(`${version}: refuses ${name}`, async () => {
        const error = await load(topology(form, 'MultiHeadAttention', config, named('a', 'a', kwargs))).catch(String);
        expect(error).to.match(message);
      });
    }
  }

  it('loads by address as tf.loadLayersModel does', async () => {
    const error = await tf.loadLayersModel(fromKeras('http://localhost:1/model.json')).catch(String);
    expect(error).to.match(/fetch failed|ECONNREFUSED/);
  });
});
