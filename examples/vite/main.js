/**
 * @file A page to start from: attention and its gradient over three texts packed in a row, on WebGPU or the CPU. Copy
 * the folder, then `npm install` and `npm run dev`.
 */
import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-backend-webgpu';
import {flashMaskAttention, masks, toSVG} from 'tfjs-flashmask';

/** WebGPU where the browser gives it, else the CPU. */
async function startBackend() {
  const adapter = await navigator.gpu?.requestAdapter();
  await tf.setBackend(adapter ? 'webgpu' : 'cpu');
  return tf.getBackend();
}

const LENGTHS = [60, 100, 40];
const [HEADS, CHANNELS] = [4, 16];

async function run() {
  const backend = await startBackend();
  const tokens = LENGTHS.reduce((sum, length) => sum + length, 0);
  const shape = [1, tokens, HEADS, CHANNELS]; // [batch, tokens, heads, channels]
  const [q, k, v] = [1, 2, 3].map((seed) => tf.randomNormal(shape, 0, 1, 'float32', seed));
  const mask = masks.causalDocument(LENGTHS);

  const start = performance.now();
  const lossOf = (...qkv) =>
    flashMaskAttention(...qkv, mask)
      .square()
      .mean();
  const {value, grads} = tf.valueAndGrads(lossOf)([q, k, v]);
  const [loss] = await value.data();
  const [largest] = await grads[0].abs().max().data();

  const milliseconds = (performance.now() - start).toFixed(0);
  const {maskedPairs} = mask.sparsity();
  document.querySelector('#result').textContent =
    `${backend}: loss ${loss.toFixed(4)}, largest gradient ${largest.toExponential(2)}, ` +
    `${(100 * maskedPairs).toFixed(0)}% of the pairs masked, ${milliseconds} ms`;
  document.querySelector('#mask').innerHTML = toSVG(mask, {title: 'Three texts in a row'});
}

await run();
