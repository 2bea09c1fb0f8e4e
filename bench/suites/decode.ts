/**
 * @file The suite `decode`: one query against long keys, as in decoding with a cache of keys and values, on WebGPU,
 * next to dense attention of tfjs ops. A record's N is the number of keys.
 */
import * as tf from '@tensorflow/tfjs';
import {difference, flashAttention, noise, type Attention} from '../attention.js';
import {webgpuDevice} from '../backend.js';
import {time} from '../clock.js';
import type {Emit, Figures} from '../record.js';
import {Bench, disposing, precisionField, type CommonOptions} from './suite.js';

interface DecodeOptions extends CommonOptions {
  keyHeads: number[];
}

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

/** Runs both attentions at all lengths. Draws the keys once: the host draws a million numbers per second. */
async function runKeyHeads(bench: Bench, Hkv: number, D: number, options: DecodeOptions): Promise<void> {
  const {heads: H, lengths, precision, seconds} = options;
  if (H % Hkv !== 0) throw new Error(`bench: --heads must be a multiple of --key-heads, got ${H} and ${Hkv}.`);
  const {maxStorageBufferBindingSize: binding, maxBufferSize} = webgpuDevice().limits;
  const most = Math.floor(Math.min(binding, maxBufferSize) / (4 * Hkv * D));
  const longest = Math.max(1, ...lengths.filter((N) => N <= most));
  const keys = [2, 3].map((seed) => noise(Hkv, longest, D, seed));
  const attentions = {flash: flashAttention(null, {causal: true, precision}), dense: denseDecode};
  const run = (N: number, kind: keyof typeof attentions) =>
    bench.measure({...precisionField(precision), attention: kind, N, Sq: 1, H, Hkv, D}, async (): Promise<Figures> => {
      if (N > most) return {outcome: 'skipped', reason: `a binding covers at most ${most} keys`};
      const [k, v] = keys.map((x) => tf.slice(x, [0, 0, 0, 0], [1, Hkv, N, D]));
      const q = noise(H, 1, D, 1);
      return disposing([q, k, v], async () => {
        const {ms: forwardMs} = await time(() => [tf.tidy(() => attentions[kind](q, k, v))], seconds);
        if (kind === 'dense') return {forwardMs};
        return {forwardMs, difference: await difference(null, denseDecode, [q, k, v], {causal: true, precision})};
      });
    });
  await disposing(keys, async () => {
    for (const N of lengths) for (const kind of ['flash', 'dense'] as const) await run(N, kind);
  });
}

export async function runDecode(options: DecodeOptions, emit: Emit): Promise<void> {
  const bench = await Bench.start('decode', options, emit);
  for (const D of options.dims) for (const Hkv of options.keyHeads) await runKeyHeads(bench, Hkv, D, options);
}
