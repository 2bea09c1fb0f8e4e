/**
 * @file A model of tf.layers with attention: train it by fit, save it, load it.
 *
 *     npm install @tensorflow/tfjs tfjs-flashmask
 *     node custom_model.mjs
 *
 * The task: texts that repeat four random tokens. The model must look four tokens back, which only attention can.
 */
import * as tf from '@tensorflow/tfjs';
import {FlashMaskMultiHeadAttention} from 'tfjs-flashmask/layers';

// In a page: import '@tensorflow/tfjs-backend-webgpu' and await tf.setBackend('webgpu').
await tf.ready();

const VOCABULARY = 8;
const LENGTH = 16;
const CHANNELS = 16;
const PERIOD = 4;

function buildModel() {
  const tokens = tf.input({shape: [LENGTH], dtype: 'int32'});
  const x = tf.layers.embedding({inputDim: VOCABULARY, outputDim: CHANNELS}).apply(tokens);
  const attention = new FlashMaskMultiHeadAttention({
    numHeads: 4,
    keyDim: 8,
    useCausalMask: true, // a token sees itself and those before it
    ropeMaxWavelength: 100, // and how far away they are
  });
  const seen = tf.layers.add().apply([x, attention.apply(x)]);
  const hidden = tf.layers.dense({units: 32, activation: 'relu'}).apply(tf.layers.layerNormalization().apply(seen));
  const probabilities = tf.layers.dense({units: VOCABULARY, activation: 'softmax'}).apply(hidden);
  return tf.model({inputs: tokens, outputs: probabilities});
}

/** Texts and, for each token, the next one. */
function drawTexts(count) {
  const rows = Array.from({length: count}, () => {
    const pattern = Array.from({length: PERIOD}, () => Math.floor(Math.random() * VOCABULARY));
    return Array.from({length: LENGTH + 1}, (_, i) => pattern[i % PERIOD]);
  });
  const texts = tf.tensor2d(
    rows.map((row) => row.slice(0, -1)),
    undefined,
    'int32',
  );
  const next = tf.tensor3d(rows.map((row) => row.slice(1).map((token) => [token])));
  return {texts, next};
}

const model = buildModel();
model.compile({optimizer: tf.train.adam(0.03), loss: 'sparseCategoricalCrossentropy'});
const {texts, next} = drawTexts(32);
const {history} = await model.fit(texts, next, {epochs: 10, batchSize: 8, verbose: 0});
console.log(`loss ${history.loss[0].toFixed(2)} -> ${history.loss.at(-1).toFixed(2)}`);

// 'downloads://name' and 'localstorage://name' in a page, 'file://folder' with tfjs-node. Here it stays in memory.
let saved;
await model.save(
  tf.io.withSaveHandler(async (artifacts) => {
    saved = artifacts;
    return {modelArtifactsInfo: {dateSaved: new Date(), modelTopologyType: 'JSON'}};
  }),
);
// The import of tfjs-flashmask/layers has told tfjs about the class.
const loaded = await tf.loadLayersModel(tf.io.fromMemory(saved));

const {texts: others, next: wanted} = drawTexts(32);
const guesses = loaded.predict(others).argMax(-1);
// The first four tokens are random: the model can know those that follow.
const right = guesses
  .equal(wanted.squeeze([2]).toInt())
  .slice([0, PERIOD], [-1, -1])
  .toFloat()
  .mean();
console.log(`the loaded model guesses ${(100 * (await right.data())[0]).toFixed(0)} % of the tokens`);
