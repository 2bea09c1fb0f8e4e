/** @file The two attentions that are compared: flashMaskAttention, and dense masked attention from plain tfjs operations. */
import * as tf from '@tensorflow/tfjs';
import {type FlashMask, flashMaskAttention} from '../../src/index.js';
import type {Attend} from './model.js';

/** Added to a masked score: its weight becomes exactly 0, and a row without visible key stays finite. */
const MASKED = -1e9;

/** Attention that skips what the mask empties. Memory is linear in the number of tokens. */
export function flashAttention(mask: FlashMask): Attend {
  return (q, k, v) => flashMaskAttention(q, k, v, mask);
}

/** The mask as dense attention wants it: `[batch, 1, queries, keys]`, 0 where visible. The caller disposes it. */
export function denseBias(mask: FlashMask): tf.Tensor4D {
  const {batch, queryLength, keyLength} = mask;
  const bias = new Float32Array(batch * queryLength * keyLength);
  for (let b = 0; b < batch; b++) {
    mask.toDense(b).forEach((visible, i) => (bias[b * queryLength * keyLength + i] = visible ? 0 : MASKED));
  }
  return tf.tensor4d(bias, [batch, 1, queryLength, keyLength]);
}

/** Dense masked attention: every score is computed, masked by addition, and kept for the gradient. */
export function denseAttention(bias: tf.Tensor4D): Attend {
  return (q, k, v) => {
    const [, , heads, headSize] = q.shape;
    const scores = tf.matMul(byHead(q, heads), byHead(k, heads), false, true).mul(1 / Math.sqrt(headSize));
    const weights = tf.softmax(scores.add(bias));
    return tf.transpose(tf.matMul(weights, byHead(v, heads)), [0, 2, 1, 3]) as tf.Tensor4D;
  };
}

/** `[B, S, Hkv, D]` to `[B, heads, S, D]`: each key head serves `heads / Hkv` query heads in a row. */
function byHead(x: tf.Tensor4D, heads: number): tf.Tensor4D {
  const [batch, length, own, channels] = x.shape;
  const first = x.transpose([0, 2, 1, 3]) as tf.Tensor4D;
  if (own === heads) {
    return first;
  }
  // Rank 3: tfjs's webgpu tile of rank 5 needs a synchronous read, which Node does not have.
  const repeated = first.reshape([batch * own, 1, length * channels]).tile([1, heads / own, 1]);
  return repeated.reshape([batch, heads, length, channels]);
}
