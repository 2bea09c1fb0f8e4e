/** @file What a user would write instead: dense masked attention of tfjs ops, N x N scores and all. */
import * as tf from '@tensorflow/tfjs-core';
import {flashMaskAttention, type FlashMask, type FlashMaskAttentionOptions} from '../src/entries/index.js';
import type {WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';

export type Attention = (q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D) => tf.Tensor4D;

/** Additive mask `[B or 1, Hm, N, N]`: 0 where a query sees a key, -1e9 where not. */
export function denseBias(mask: FlashMask): tf.Tensor4D {
  const {batch, heads, queryLength, keyLength} = mask;
  const pairs = queryLength * keyLength;
  const bias = new Float32Array(batch * heads * pairs);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const visible = mask.toDense(b, h);
      const at = (b * heads + h) * pairs;
      for (let i = 0; i < pairs; i++) if (!visible[i]) bias[at + i] = -1e9;
    }
  }
  return tf.tensor4d(bias, [batch, heads, queryLength, keyLength]);
}

/** Why dense attention cannot run here, or undefined: it holds H x N x N scores in one binding, several times over. */
export function denseObstacle({N, H}: {N: number; H: number}): string | undefined {
  const bytes = 4 * H * N * N;
  const limit =
    tf.getBackend() === 'webgpu'
      ? (tf.backend() as unknown as WebGPUBackend).device.limits.maxStorageBufferBindingSize
      : 2 ** 31;
  return bytes > limit / 2 ? `its scores take ${(bytes / 2 ** 30).toFixed(1)} GiB` : undefined;
}

/** softmax(QKᵀ / √D + bias) V on `[B, H, N, D]` tensors. */
export function denseAttention(bias: tf.Tensor4D): Attention {
  return (q, k, v) => {
    const scores = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(q.shape[3]));
    return tf.matMul(tf.softmax(tf.add(scores, bias)), v);
  };
}

/** The gradient of an attention in q, k and v. */
export const gradsOf = (attention: Attention) =>
  tf.grads((...x: tf.Tensor[]) => attention(x[0] as tf.Tensor4D, x[1] as tf.Tensor4D, x[2] as tf.Tensor4D));

/** Largest difference of two attentions, over the rows that see a key: dense attention averages over nothing in the others. */
export async function difference(
  mask: FlashMask,
  dense: Attention,
  [q, k, v]: tf.Tensor4D[],
  options: FlashMaskAttentionOptions = {},
): Promise<number> {
  const worst = tf.tidy(() => {
    const [out, lse] = flashMaskAttention(q, k, v, mask, {...options, layout: 'bhsd', returnLogSumExp: true});
    const sees = tf.expandDims(tf.cast(tf.greater(lse, -1e30), 'float32'), 3);
    return tf.max(tf.mul(tf.abs(tf.sub(out, dense(q, k, v))), sees));
  });
  const [value] = await worst.data();
  worst.dispose();
  return value;
}
