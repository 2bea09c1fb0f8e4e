/**
 * @file Trains a small language model on texts of unequal length, packed into rows: no token is padding, and no text
 * sees another one.
 *
 *     npm install @tensorflow/tfjs tfjs-flashmask
 *     node packed_training.mjs
 */
import * as tf from '@tensorflow/tfjs';
import {FlashMaskBounds, transformerDecoderBlock} from 'tfjs-flashmask/layers';

// In a page: import '@tensorflow/tfjs-backend-webgpu' and await tf.setBackend('webgpu').
await tf.ready();

const ROW = 64;
const EPOCHS = 6;
const SENTENCES = [
  'a cat sat on a mat',
  'the dog ate the bone',
  'the cat saw the dog',
  'a dog sat',
  'the bone was on the mat',
  'the cat ate',
];
const LETTERS = [...new Set(SENTENCES.join(''))].sort();
const encode = (text) => [...text].map((letter) => LETTERS.indexOf(letter));

/** Puts each text into the first row that has room for it. */
function pack(texts) {
  const rows = [];
  for (const text of texts) {
    let row = rows.find((one) => one.tokens.length + text.length <= ROW);
    if (!row) rows.push((row = {tokens: [], documents: [], next: [], count: 0}));
    row.tokens.push(...text);
    row.documents.push(...text.map(() => row.count));
    row.next.push(...text.slice(1), -1); // nothing follows the last token
    row.count++;
  }
  const tensor = (name, filler) =>
    tf.tensor2d(
      rows.map((row) => [...row[name], ...Array(ROW - row[name].length).fill(filler)]),
      undefined,
      'int32',
    );
  const wanted = tf.oneHot(tensor('next', -1), LETTERS.length).toFloat(); // zeros for -1
  return {tokens: tensor('tokens', 0), documents: tensor('documents', -1), wanted}; // document -1: the row's free end
}

function buildModel() {
  const tokens = tf.input({shape: [ROW], dtype: 'int32'});
  const documents = tf.input({shape: [ROW], dtype: 'int32'});
  const bounds = new FlashMaskBounds({of: 'documents', useCausalMask: true}).apply(documents); // once for all blocks
  let x = tf.layers.embedding({inputDim: LETTERS.length, outputDim: 16}).apply(tokens);
  for (let i = 0; i < 1; i++) {
    x = transformerDecoderBlock([x, bounds], {numHeads: 4, keyDim: 4, intermediateDim: 32, ropeMaxWavelength: 100});
  }
  return tf.model({inputs: [tokens, documents], outputs: tf.layers.dense({units: LETTERS.length}).apply(x)});
}

/** The mean over the tokens that a token of the same text follows: only those have a 1 in `wanted`. */
const loss = (wanted, scores) =>
  tf.losses.softmaxCrossEntropy(wanted, scores, undefined, undefined, tf.Reduction.SUM).div(wanted.sum());

const texts = Array.from({length: 12}, (_, i) => encode(SENTENCES[(i * 5) % SENTENCES.length]));
const {tokens, documents, wanted} = pack(texts);
const used = texts.reduce((sum, text) => sum + text.length, 0);
console.log(
  `${texts.length} texts in ${tokens.shape[0]} rows, ${((100 * used) / tokens.size).toFixed(0)} % of them tokens`,
);

const model = buildModel();
model.compile({optimizer: tf.train.adam(0.02), loss});
const start = performance.now();
const {history} = await model.fit([tokens, documents], wanted, {epochs: EPOCHS, batchSize: 1, verbose: 0});
const seconds = (performance.now() - start) / 1000;
console.log(
  `loss ${history.loss[0].toFixed(2)} -> ${history.loss.at(-1).toFixed(2)}, ${((EPOCHS * used) / seconds).toFixed(0)} tokens/s`,
);
