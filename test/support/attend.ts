/** @file Runs a case of the table through the library on the current tfjs backend. */
import * as tf from '@tensorflow/tfjs';
import {flashMaskAttention, type FlashMaskAttentionOptions} from '../../src/entries/index.js';
import type {FlashMaskAttentionAttrs, Precision} from '../../src/call/kernel_names.js';
import {FlashMask} from '../../src/mask/flash_mask.js';
import type {CaseMask, Prepared} from './cases.js';
import type {ActualResult} from './compare.js';

/** Attributes of a kernel that runs without the op. */
export const ATTRS = {
  causal: false,
  scale: 1,
  layout: 'bshd',
  dropout: 0,
  seed: 0,
  precision: 'auto',
  deterministic: false,
} as const satisfies FlashMaskAttentionAttrs;

/** Runs the forward pass and the gradients of `sum(out dOut) + sum(lse dLse)`. Frees all its tensors. */
export async function attend({case: c, call, mask}: Prepared, precision?: Precision): Promise<ActualResult> {
  const results = tf.tidy((): Record<string, tf.Tensor> => {
    const {q, k, v, dOut, dLse} = tensorsOf({case: c, call, mask});
    const options = {...optionsOf({case: c}), ...(precision === undefined ? {} : {precision})};
    const bounds = maskArgument(mask, c.Sk);
    const run = (qi: tf.Tensor, ki: tf.Tensor, vi: tf.Tensor): tf.Tensor4D =>
      flashMaskAttention(qi as tf.Tensor4D, ki as tf.Tensor4D, vi as tf.Tensor4D, bounds, options);
    if (!c.lse) {
      const [dq, dk, dv] = tf.grads(run)([q, k, v], dOut);
      return {out: run(q, k, v), dq, dk, dv};
    }
    const runBoth = (qi: tf.Tensor, ki: tf.Tensor, vi: tf.Tensor) =>
      flashMaskAttention(qi as tf.Tensor4D, ki as tf.Tensor4D, vi as tf.Tensor4D, bounds, {
        ...options,
        returnLogSumExp: true,
      });
    const [out, lse] = runBoth(q, k, v);
    const [dq, dk, dv] = tf.grads((qi, ki, vi) => {
      const [o, l] = runBoth(qi, ki, vi);
      return tf.add(tf.sum(tf.mul(o, dOut)), tf.sum(tf.mul(l, dLse)));
    })([q, k, v]);
    return {out, lse, dq, dk, dv};
  });
  const actual: ActualResult = {};
  for (const [name, tensor] of Object.entries(results)) {
    actual[name as keyof ActualResult] = await tensor.data();
    tensor.dispose();
  }
  return actual;
}

/** The inputs of a case as tensors of the current backend; the caller frees them. */
export function tensorsOf({call}: Prepared) {
  const {B, H, Hkv, Sq, Sk, D, Dv, layout} = call;
  const make = (data: ArrayLike<number>, S: number, heads: number, channels: number) =>
    tf.tensor4d(Float32Array.from(data), layout === 'bshd' ? [B, S, heads, channels] : [B, heads, S, channels]);
  return {
    q: make(call.q, Sq, H, D),
    k: make(call.k, Sk, Hkv, D),
    v: make(call.v, Sk, Hkv, Dv),
    dOut: make(call.dOut, Sq, H, Dv),
    dLse: tf.tensor3d(Float32Array.from(call.dLse), [B, H, Sq]),
  };
}

/** Only the options that the case sets, so that defaults are tested too. */
export function optionsOf({case: c}: Pick<Prepared, 'case'>): Omit<FlashMaskAttentionOptions, 'returnLogSumExp'> {
  return {
    ...(c.causal === undefined ? {} : {causal: c.causal}),
    ...(c.scale === undefined ? {} : {scale: c.scale}),
    ...(c.layout === 'bshd' ? {} : {layout: c.layout}),
    ...(c.dropout === 0 ? {} : {dropout: c.dropout, seed: c.seed}),
    ...(c.deterministic === undefined ? {} : {deterministic: c.deterministic}),
  };
}

export function maskArgument(mask: CaseMask, Sk: number): FlashMask | tf.Tensor4D | null {
  if (mask === null || mask instanceof FlashMask) {
    return mask;
  }
  return tf.tensor4d(Int32Array.from(mask.data), [mask.maskB, mask.Hm, Sk, mask.n], 'int32');
}
