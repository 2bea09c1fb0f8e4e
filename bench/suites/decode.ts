/**
 * @file The suite `decode`: one query against long keys, as in decoding with a cache of keys and values, on WebGPU,
 * next to dense attention of tfjs ops. A record's N is the number of keys.
 */
import * as tf from '@tensorflow/tfjs';
import {flashMaskAttention} from '../../src/entries/index.js';
import {noise, type Attention} from '../attention.js';
import {webgpuDevice} from '../backend.js';
import {time} from '../clock.js';
import type {Figures} from '../record.js';
import {disposing, precisionField, type Bench, type CommonOptions} from './suite.js';

export interface DecodeOptions extends CommonOptions {
  keyHeads: number[];
}

type Inputs = [q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D];

/**
 * Dense attention of one query on `[1, H, 1, D]` and `[1, Hkv, N, D]`. The heads of a group are the rows of one
 * product, because that is fastest.
 */
const denseDecode: Attention = (q, k, v) => {
  const [, H, , D] = q.shape;
  const Hkv = k.shape[1];
  const rows = tf.reshape(q, [1, Hkv, H / Hkv, D]);
  const weights = tf.softmax(tf.mul(tf.matMul(rows, k, false, true), 1 / Math.sqrt(D)));
  return tf.reshape(tf.matMul(weights, v), [1, H, 1, v.shape[3]]);
};

/** Largest difference of the two attentions, over all outputs. */
async function difference(flash: Attention, inputs: Inputs): Promise<number> {
  const worst = tf.tidy(() => tf.max(tf.abs(tf.sub(flash(...inputs), denseDecode(...inputs)))));
  const [value] = await worst.data();
  worst.dispose();
  return value;
}

/** Runs both attentions at all lengths. Draws the keys once: the host draws a million numbers per second. */
async function runKeyHeads(bench: Bench, Hkv: number, D: number, options: DecodeOptions): Promise<void> {
  const {heads: H, lengths, precision, seconds} = options;
  if (H % Hkv !== 0) throw new Error(`bench: --heads must be a multiple of --key-heads, got ${H} and ${Hkv}.`);
  const {maxStorageBufferBindingSize: binding, maxBufferSize} = webgpuDevice().limits;
  const most = Math.floor(Math.min(binding, maxBufferSize) / (4 * Hkv * D));
  const longest = Math.max(1, ...lengths.filter((N) => N <= most));
  const keys = [2, 3].map((seed) => noise(Hkv, longest, D, seed));
  const flash: Attention = (q, k, v) => flashMaskAttention(q, k, v, null, {causal: true, layout: 'bhsd', precision});
  const run = (N: number, kind: 'flash' | 'dense') =>
    bench.measure({...precisionField(precision), attention: kind, N, Sq: 1, H, Hkv, D}, async (): Promise<Figures> => {
      if (N > most) return {outcome: 'skipped', reason: `a binding covers at most ${most} keys`};
      const [k, v] = keys.map((x) => tf.slice(x, [0, 0, 0, 0], [1, Hkv, N, D]));
      const inputs: Inputs = [noise(H, 1, D, 1), k, v];
      return disposing(inputs, async () => {
        const attention = kind === 'flash' ? flash : denseDecode;
        const {ms: forwardMs} = await time(() => [tf.tidy(() => attention(...inputs))], seconds);
        return kind === 'flash' ? {forwardMs, difference: await difference(flash, inputs)} : {forwardMs};
      });
    });
  await disposing(keys, async () => {
    for (const N of lengths) for (const kind of ['flash', 'dense'] as const) await run(N, kind);
  });
}

export async function runDecode(options: DecodeOptions, start: () => Promise<Bench>): Promise<void> {
  const bench = await start();
  for (const D of options.dims) for (const Hkv of options.keyHeads) await runKeyHeads(bench, Hkv, D, options);
}
