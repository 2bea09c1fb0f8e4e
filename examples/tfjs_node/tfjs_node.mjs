/**
 * @file tfjs-node with this library's native kernels: trains a model, saves it as files, and loads them.
 *
 *     npm install --ignore-scripts @tensorflow/tfjs-node@4.22.0 @tensorflow/tfjs tfjs-flashmask
 *     npx tfjs-flashmask setup-node    # a current TensorFlow; for an NVIDIA GPU take tfjs-node-gpu here, and --gpu
 *     node tfjs_node.mjs [folder]
 *
 * The task: waves with noise. The model sees 16 numbers on each side of a number, and says what it is without noise.
 */
import {resolve} from 'node:path';
import {pathToFileURL} from 'node:url';
import tf from '@tensorflow/tfjs-node';
import {FlashMaskMultiHeadAttention} from 'tfjs-flashmask/layers';
import {nativeInfo} from 'tfjs-flashmask/node';

const {path, reason, instructionSet, threads} = nativeInfo();
console.log(path ? `native kernels: ${instructionSet}, ${threads} threads` : `no native kernels: ${reason}`);

const LENGTH = 256;

function buildModel() {
  const numbers = tf.input({shape: [LENGTH, 1]});
  const x = tf.layers.dense({units: 16}).apply(numbers);
  const attention = new FlashMaskMultiHeadAttention({
    ...{numHeads: 2, keyDim: 8, ropeMaxWavelength: 100},
    mask: {builder: 'window', args: [16]}, // saved with the model
  });
  const seen = tf.layers.add().apply([x, attention.apply(x)]);
  return tf.model({inputs: numbers, outputs: tf.layers.dense({units: 1}).apply(seen)});
}

/** Waves of random length and place, [count, LENGTH, 1], and the same with noise. */
function drawWaves(count) {
  const column = (low, high, seed) => tf.randomUniform([count, 1, 1], low, high, 'float32', seed);
  const at = tf.range(0, LENGTH).reshape([1, LENGTH, 1]);
  const waves = at
    .mul(column(0.02, 0.08, 1))
    .add(column(0, 2 * Math.PI, 2))
    .sin();
  return {waves, noisy: waves.add(tf.randomNormal(waves.shape, 0, 0.5, 'float32', 3))};
}

const model = buildModel();
model.compile({optimizer: tf.train.adam(0.01), loss: 'meanSquaredError'});
const {waves, noisy} = drawWaves(64);
const {history} = await model.fit(noisy, waves, {epochs: 8, batchSize: 8, verbose: 0});
console.log(`squared error ${history.loss[0].toFixed(3)} -> ${history.loss.at(-1).toFixed(3)}, that of the noise 0.25`);

const folder = pathToFileURL(resolve(process.argv[2] ?? 'waves')).href;
await model.save(folder);
const loaded = await tf.loadLayersModel(`${folder}/model.json`);
const difference = loaded.predict(noisy).sub(model.predict(noisy)).abs().max();
console.log(`saved in ${folder}; the loaded model differs by ${(await difference.data())[0]}`);
