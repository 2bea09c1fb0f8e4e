/** @file Tensors that benchmarks attend with. */
import * as tf from '@tensorflow/tfjs-core';

/** Rows of noise that are drawn; longer sequences repeat them, since drawing takes the host a microsecond a number. */
const NOISE_ROWS = 512;

/** Normal noise `[1, H, N, D]`. */
export function noise(H: number, N: number, D: number, seed: number): tf.Tensor4D {
  const rows = N % NOISE_ROWS === 0 ? NOISE_ROWS : N;
  return tf.tidy(() => tf.tile(tf.randomNormal([1, H, rows, D], 0, 1, 'float32', seed), [1, 1, N / rows, 1]));
}
