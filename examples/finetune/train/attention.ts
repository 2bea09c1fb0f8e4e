/** @file The attention of a batch: flashMaskAttention, or dense masked attention in plain tfjs ops for comparison. */
import * as tf from '@tensorflow/tfjs';
import {contextParallelAttention} from '../../../src/distributed/context_parallel.js';
import {type FlashMask, flashMaskAttention} from '../../../src/entries/index.js';
import type {Batch, SharedRows} from '../data/batch.js';
import type {LlamaConfig} from '../model/config.js';
import type {Attend} from '../model/llama.js';

export type AttentionKind = 'flash' | 'dense';

/** An attention and the tensors that it reads. The caller disposes `tensors` after the step. */
export interface BatchAttention {
  attend: Attend;
  tensors: tf.Tensor[];
}

/** Added to a masked score. Its weight becomes exactly 0, and a row without visible key stays finite. */
const MASKED = -1e9;

/** The attention of a batch, per layer, because layers may have different sliding windows. */
export function attentionOf(kind: AttentionKind, batch: Batch, {slidingWindows}: LlamaConfig): BatchAttention {
  if (batch.shared) return {attend: sharedAttention(batch.shared, slidingWindows), tensors: []};
  const make = kind === 'flash' ? boundsOf : denseBias;
  const attention = kind === 'flash' ? flashAttention : denseAttention;
  const tensors = new Map<FlashMask, tf.Tensor4D>();
  for (const mask of new Set(slidingWindows.map((window) => batch.mask(window)))) tensors.set(mask, make(mask));
  // Two names, because they are inputs of different functions.
  const name = kind === 'flash' ? 'bounds' : 'bias';
  const attend: Attend = (q, k, v, _layer, given) => attention(q, k, v, given[name] as tf.Tensor4D);
  attend.tensorsOf = (layer) => ({[name]: tensors.get(batch.mask(slidingWindows[layer]))!});
  return {attend, tensors: [...tensors.values()]};
}

/** The attention of ranks that share rows. It has no tensors: plans know the masks. */
function sharedAttention({team, plan}: SharedRows, slidingWindows: LlamaConfig['slidingWindows']): Attend {
  return (q, k, v, layer) => contextParallelAttention(team, q, k, v, plan(slidingWindows[layer]));
}

/** The bounds of a causal mask, `[batch, heads, keys, vectors]`. */
function boundsOf({batch, heads, keyLength, vectors, bounds}: FlashMask): tf.Tensor4D {
  return tf.tensor4d(bounds!, [batch, heads, keyLength, vectors], 'int32');
}

function flashAttention(q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D, bounds: tf.Tensor4D): tf.Tensor4D {
  return flashMaskAttention(q, k, v, bounds, {causal: true});
}

/**
 * `[batch, 1, queries, keys]`: 0 where visible. Made on the device. In these causal masks key j is visible from query j
 * up to its bound.
 */
function denseBias({batch, queryLength, keyLength, bounds}: FlashMask): tf.Tensor4D {
  return tf.tidy(() => {
    const queries = tf.range(0, queryLength).reshape([1, 1, queryLength, 1]);
    const keys = tf.range(0, keyLength).reshape([1, 1, 1, keyLength]);
    const ends = tf.tensor4d(Float32Array.from(bounds!), [batch, 1, 1, keyLength]);
    const visible = tf.logicalAnd(queries.greaterEqual(keys), queries.less(ends));
    return visible.cast('float32').sub(1).mul<tf.Tensor4D>(-MASKED);
  });
}

/** Computes every score, masks by addition, and keeps all for the gradient. */
function denseAttention(q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D, bias: tf.Tensor4D): tf.Tensor4D {
  const [, , heads, headSize] = q.shape;
  const scores = tf.matMul(byHead(q, heads), byHead(k, heads), false, true).mul(1 / Math.sqrt(headSize));
  const weights = tf.softmax(scores.add(bias));
  return tf.transpose(tf.matMul(weights, byHead(v, heads)), [0, 2, 1, 3]) as tf.Tensor4D;
}

/** `[B, S, Hkv, D]` to `[B, heads, S, D]`: each key head serves `heads / Hkv` consecutive query heads. */
function byHead(x: tf.Tensor4D, heads: number): tf.Tensor4D {
  const [batch, length, own, channels] = x.shape;
  const first = x.transpose([0, 2, 1, 3]) as tf.Tensor4D;
  if (own === heads) {
    return first;
  }
  // Rank 3, because tfjs's webgpu tile of rank 5 needs a synchronous read, which Node does not have.
  const repeated = first.reshape([batch * own, 1, length * channels]).tile([1, heads / own, 1]);
  return repeated.reshape([batch, heads, length, channels]);
}
