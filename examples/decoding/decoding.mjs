/**
 * @file Generates a text token by token with a key-value cache, and compares it with running the whole text each time.
 *
 *     npm install @tensorflow/tfjs tfjs-flashmask
 *     node decoding.mjs
 *
 * The model has random weights: it says nothing, but it says the same with and without the cache.
 */
import * as tf from '@tensorflow/tfjs';
import {KeyValueCache, transformerDecoderBlock} from 'tfjs-flashmask/layers';

// In a page: import '@tensorflow/tfjs-backend-webgpu' and await tf.setBackend('webgpu').
await tf.ready();

const VOCABULARY = 100;
const PROMPT = [[17, 4, 99, 23, 8, 8, 61, 5]];
const NEW_TOKENS = 16;

function buildModel() {
  const tokens = tf.input({shape: [null], dtype: 'int32'}); // any length
  let x = tf.layers
    .embedding({inputDim: VOCABULARY, outputDim: 32, embeddingsInitializer: 'randomNormal'})
    .apply(tokens);
  for (let i = 0; i < 2; i++) {
    const args = {numHeads: 4, numKeyValueHeads: 2, keyDim: 8, intermediateDim: 128, ropeMaxWavelength: 10000};
    x = transformerDecoderBlock(x, args);
  }
  const scores = tf.layers.dense({units: VOCABULARY}).apply(tf.layers.layerNormalization().apply(x));
  return tf.model({inputs: tokens, outputs: scores});
}

/** The likeliest token after the last one, as an array [batch][1]. */
async function likeliest(scores) {
  const next = tf.tidy(() => scores.slice([0, scores.shape[1] - 1, 0], [-1, 1, -1]).argMax(-1));
  scores.dispose();
  const rows = await next.array();
  next.dispose();
  return rows;
}

/** Runs the model on token ids. */
function run(model, ids) {
  return tf.tidy(() => model.predict(tf.tensor2d(ids, undefined, 'int32')));
}

async function generateWithCache(model, prompt) {
  const cache = new KeyValueCache();
  const text = prompt.map((row) => [...row]);
  let step = prompt; // the whole prompt first, then one token at a time
  for (let i = 0; i < NEW_TOKENS; i++) {
    step = await likeliest(cache.run(() => run(model, step)));
    step.forEach(([token], row) => text[row].push(token));
  }
  cache.dispose();
  return text;
}

async function generateWithout(model, prompt) {
  const text = prompt.map((row) => [...row]);
  for (let i = 0; i < NEW_TOKENS; i++) {
    const next = await likeliest(run(model, text));
    next.forEach(([token], row) => text[row].push(token));
  }
  return text;
}

const model = buildModel();
run(model, PROMPT).dispose(); // the first call of a backend may compile
const texts = [];
for (const generate of [generateWithCache, generateWithout]) {
  const start = performance.now();
  texts.push(await generate(model, PROMPT));
  console.log(`${generate.name}: ${((NEW_TOKENS / (performance.now() - start)) * 1000).toFixed(0)} tokens/s`);
}
console.log(`the same text: ${texts[0].join() === texts[1].join()}`);
