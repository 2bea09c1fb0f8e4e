/** @file Compiles shaders in advance, so that the first attention call does not wait for them. */
import * as tf from '@tensorflow/tfjs-core';
import {flashMaskAttention} from '../../ops/flash_mask_attention.js';
import {checkFlag} from '../call/errors.js';
import {checkReading, checkVectors} from '../mask/fields.js';
import type {Vectors} from '../mask/bounds/intervals.js';
import {FEW_QUERIES} from '../backends/webgpu/plan/vector_plan.js';
import {type CallKind, checkPositive, readCallKind, webgpuBackend} from '../backends/webgpu/autotune/call_kind.js';

/** Options of {@link prepareAttention}: the kind of the later calls. */
export interface PrepareOptions extends CallKind {
  /**
   * Bounds per key column of their masks: 0, 1, 2 or 4. Two need `causal`, as in the op. Default: as for packed
   * documents, 1 if causal, else 2.
   */
  vectors?: Vectors;
  /** Query rows of the calls. Up to 16 rows, as in decoding, use other shaders. Default: more than 16. */
  queryLength?: number;
  /** Whether the calls need gradients. Default true. */
  gradient?: boolean;
}

/**
 * Key length of the call that is compiled. If its queries are few, so many keys are split over workgroups, and the pass
 * that combines the splits is compiled too.
 */
const KEYS = 256;
const DROPOUT = 0.1;

/**
 * Compiles all shaders for one kind of call on the current WebGPU device, forward and backward, without blocking the
 * program. Later calls of that kind compile nothing, at any lengths, head counts, batch size and layout. A gradient
 * through the log-sum-exp needs another shader, which compiles at its first call.
 *
 * ```js
 * await prepareAttention({D: 64, causal: true});
 * ```
 *
 * @param options `D` and the other properties of the calls.
 * @throws Error if the current backend is not WebGPU, for invalid options, and if the device refuses a shader.
 */
export async function prepareAttention(options: PrepareOptions): Promise<void> {
  const who = 'prepareAttention';
  const given = readCallKind(who, options, ['vectors', 'queryLength', 'gradient']);
  const {causal, vectors = causal ? 1 : 2, queryLength = FEW_QUERIES + 1, gradient = true} = given;
  checkReading(who, options.causal, options.vectors);
  checkVectors(who, causal, vectors);
  checkPositive(who, 'queryLength', queryLength);
  checkFlag(who, 'gradient', gradient);
  const backend = webgpuBackend(who);
  const before = tf.env().getBool('WEBGPU_ENGINE_COMPILE_ONLY');
  tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', true);
  try {
    tf.tidy(() => attend({...given, vectors, queryLength: Math.min(queryLength, FEW_QUERIES + 1), gradient}));
  } finally {
    tf.env().set('WEBGPU_ENGINE_COMPILE_ONLY', before);
  }
  await backend.checkCompileCompletionAsync();
}

/** Runs a call of this kind and, if asked for, its gradients. */
function attend({D, Dv, causal, dropout, precision, vectors, queryLength, gradient}: Required<PrepareOptions>): void {
  const mask = vectors === 0 ? null : tf.zeros<tf.Rank.R4>([1, 1, KEYS, vectors], 'int32');
  const options = {causal, dropout: dropout ? DROPOUT : 0, seed: 1, precision};
  const call = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor): tf.Tensor4D =>
    flashMaskAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, mask, options);
  const inputs = [tf.zeros([1, queryLength, 1, D]), tf.zeros([1, KEYS, 1, D]), tf.zeros([1, KEYS, 1, Dv])];
  if (gradient) tf.grads(call)(inputs, tf.zeros([1, queryLength, 1, Dv]));
  else call(inputs[0], inputs[1], inputs[2]);
}
