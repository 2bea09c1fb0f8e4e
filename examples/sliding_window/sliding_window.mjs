/**
 * @file A model whose tokens see the latest 32 tokens reads a long text piece by piece, in constant memory.
 *
 *     npm install @tensorflow/tfjs tfjs-flashmask
 *     node sliding_window.mjs
 *
 * A layer with a sliding window keeps in the cache what its window needs, however long the text is.
 */
import * as tf from '@tensorflow/tfjs';
import {KeyValueCache, transformerDecoderBlock} from 'tfjs-flashmask/layers';

// In a page: import '@tensorflow/tfjs-backend-webgpu' and await tf.setBackend('webgpu').
await tf.ready();

const VOCABULARY = 50;
const WINDOW = 32;
const LENGTH = 192;
const PIECE = 64;

function buildModel() {
  const tokens = tf.input({shape: [null], dtype: 'int32'});
  let x = tf.layers
    .embedding({inputDim: VOCABULARY, outputDim: 32, embeddingsInitializer: 'randomNormal'})
    .apply(tokens);
  for (let i = 0; i < 2; i++) {
    x = transformerDecoderBlock(x, {
      numHeads: 4,
      keyDim: 8,
      intermediateDim: 64,
      ropeMaxWavelength: 10000,
      mask: {builder: 'slidingWindow', args: [WINDOW]}, // saved with the model
    });
  }
  const scores = tf.layers.dense({units: VOCABULARY}).apply(x);
  return tf.model({inputs: tokens, outputs: scores});
}

const model = buildModel();
const text = Array.from({length: LENGTH}, (_, i) => (i * i + 7 * i) % VOCABULARY);
const run = (ids) => tf.tidy(() => model.predict(tf.tensor2d([ids], undefined, 'int32')));

const cache = new KeyValueCache();
let scores; // of the latest piece
for (let at = 0; at < LENGTH; at += PIECE) {
  scores?.dispose();
  scores = cache.run(() => run(text.slice(at, at + PIECE)));
  console.log(`${cache.length} tokens read, ${cache.numBytes} bytes of keys and values`);
}
cache.dispose();

// The same scores as of the whole text at once.
const whole = run(text).slice([0, LENGTH - PIECE, 0]);
const difference = (await scores.sub(whole).abs().max().data())[0];
console.log(`largest difference to the whole text at once: ${difference.toExponential(1)}`);
