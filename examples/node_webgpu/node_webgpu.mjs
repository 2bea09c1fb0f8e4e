/**
 * @file WebGPU in Node: attention and its gradient over packed texts, timed, beside dense attention of tfjs ops.
 *
 *     npm install @tensorflow/tfjs @tensorflow/tfjs-backend-webgpu tfjs-flashmask webgpu @sparticuz/chromium@143.0.4
 *     node node_webgpu.mjs
 *
 * The last package has SwiftShader, a driver that computes on the CPU. It is used where there is no GPU.
 */
import * as tf from '@tensorflow/tfjs';
import {flashMaskAttention, masks} from 'tfjs-flashmask';
import {useWebGPU} from 'tfjs-flashmask/node-webgpu';

const {software} = await useWebGPU(); // says which GPU or driver it took

const LENGTHS = software ? [30, 50, 48] : [700, 900, 448, 2048];
const HEADS = software ? 2 : 8;
const CHANNELS = 64;

const tokens = LENGTHS.reduce((sum, length) => sum + length, 0);
const mask = masks.causalDocument(LENGTHS);
const [q, k, v] = [1, 2, 3].map((seed) => tf.randomNormal([1, tokens, HEADS, CHANNELS], 0, 1, 'float32', seed));
const {maskedPairs} = mask.sparsity();
console.log(`${LENGTHS.length} texts, ${tokens} tokens, ${(100 * maskedPairs).toFixed(0)} % of the pairs masked`);

/** The same with an attention matrix of tokens x tokens for each head. */
const visible = tf.tensor2d(mask.toDense(), [tokens, tokens], 'bool');
const bias = tf.where(visible, 0, -1e9);
function denseAttention(query, key, value) {
  const [queries, keys, values] = [query, key, value].map((x) => x.transpose([0, 2, 1, 3]));
  const scores = tf.matMul(queries, keys, false, true).div(Math.sqrt(CHANNELS)).add(bias);
  return tf.matMul(tf.softmax(scores), values).transpose([0, 2, 1, 3]);
}

/** The gradient of q, and the milliseconds of forward and backward. */
async function measure(attention) {
  const step = () =>
    tf.grads((...inputs) =>
      attention(...inputs)
        .square()
        .sum(),
    )([q, k, v]);
  const end = async ([dq, ...others]) => {
    const values = await dq.data(); // waits for the GPU
    tf.dispose([dq, ...others]);
    return values;
  };
  await end(step()); // the first call compiles shaders
  const start = performance.now();
  const values = await end(step());
  return {values, milliseconds: performance.now() - start};
}

const flash = await measure((...inputs) => flashMaskAttention(...inputs, mask));
const dense = await measure(denseAttention);
console.log(`flashMaskAttention ${flash.milliseconds.toFixed(1)} ms, dense ${dense.milliseconds.toFixed(1)} ms`);
const difference = flash.values.reduce((most, x, i) => Math.max(most, Math.abs(x - dense.values[i])), 0);
console.log(`largest difference of the gradients ${difference.toExponential(1)}`);
