/**
 * @file A program that test/native/tensorflow.test.ts runs in its own process. It prints, as JSON, the resident bytes
 * of the process after each round of attention with gradients; every call has a new dropout seed. It fails if tfjs then
 * holds more tensors than before.
 */
import {setFlagsFromString} from 'node:v8';
import {runInNewContext} from 'node:vm';
import * as tf from '@tensorflow/tfjs';
import {flashMaskAttention} from '../../src/entries/index.js';
import {devices} from '../support/devices.js';

const [name, rounds, calls] = process.argv.slice(2);
setFlagsFromString('--expose_gc');
const collectGarbage = runInNewContext('gc') as () => void;

await devices.find((device) => device.name === name)!.setup();
const x = tf.ones<tf.Rank.R4>([1, 64, 1, 4]);
const gradient = tf.grad((y) => flashMaskAttention(y as tf.Tensor4D, x, x, null, {dropout: 0.1}));

function rssAfterRound(): number {
  for (let i = 0; i < Number(calls); i++) tf.dispose(gradient(x));
  collectGarbage();
  return process.memoryUsage().rss;
}

rssAfterRound();
const {numTensors, numBytes} = tf.memory();
const rss = Array.from({length: Number(rounds)}, rssAfterRound);
const after = tf.memory();
if (after.numTensors !== numTensors || after.numBytes !== numBytes) {
  throw new Error(`tfjs must hold as much as before, ${numTensors} tensors, got ${after.numTensors}.`);
}
console.log(JSON.stringify(rss));
