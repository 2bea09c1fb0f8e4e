/** @file Compiles the shaders of calls to come, so that the first call does not wait for them. */
import * as tf from '@tensorflow/tfjs-core';
import {flashMaskAttention} from '../../ops/flash_mask_attention.js';
import {checkFlag} from '../call/errors.js';
import {checkVectors} from '../mask/fields.js';
import type {Vectors} from '../mask/bounds/intervals.js';
import {FEW_QUERIES} from '../backends/webgpu/plan/vector_plan.js';
import {type CallKind, checkPositive, readCallKind, webgpuBackend} from '../backends/webgpu/autotune/call_kind.js';

/** Options of {@link prepareAttention}: the kind of calls to come. */
export interface PrepareOptions extends CallKind {
  /** Numbers per key column of their masks: 0, 1, 2 or 4. Default: those of packed documents, 1 if causal, else 2. */
  vectors?: Vectors;
  /** Query rows of the calls. Only few are a kind of their own, as in decoding: up to 16. Default: more. */
  queryLength?: number;
  /** Whether gradients are to come too. Default true. */
  gradient?: boolean;
}

/** Of a call whose keys are split over workgroups, if its queries are few: then their sum is compiled too. */
const KEYS = 256;
const DROPOUT = 0.1;

/**
 * Compiles all shaders of one kind of calls on the current WebGPU device, forward and backward, while the program goes on. A call after
 * that compiles nothing, whatever its lengths, heads, batch and layout. A gradient through the log-sum-exp is a kind of its own, which
 * compiles at its first call.
 *
 * ```js
 * await prepareAttention({D: 64, causal: true});
 * ```
 *
 * @param options `D` and what else tells calls apart.
 * @throws Error if the current backend is not WebGPU, for options that no call could have, and if the device refuses a shader.
 */
export async function prepareAttention(options: PrepareOptions): Promise<void> {
  const who = 'prepareAttention';
  const given = readCallKind(who, options, ['vectors', 'queryLength', 'gradient']);
  const {causal, vectors = causal ? 1 : 2, queryLength = FEW_QUERIES + 1, gradient = true} = given;
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

/** A call of the kind, and its gradients. */
function attend({D, Dv, causal, dropout, precision, vectors, queryLength, gradient}: Required<PrepareOptions>): void {
  const mask = vectors === 0 ? null : tf.zeros<tf.Rank.R4>([1, 1, KEYS, vectors], 'int32');
  const options = {causal, dropout: dropout ? DROPOUT : 0, seed: 1, precision};
  const call = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor): tf.Tensor4D =>
    flashMaskAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, mask, options);
  const inputs = [tf.zeros([1, queryLength, 1, D]), tf.zeros([1, KEYS, 1, D]), tf.zeros([1, KEYS, 1, Dv])];
  if (gradient) tf.grads(call)(inputs, tf.zeros([1, queryLength, 1, Dv]));
  else call(inputs[0], inputs[1], inputs[2]);
}
