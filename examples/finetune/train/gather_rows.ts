/** @file Rows of a matrix by their numbers, and back: a gradient without the scattered sum that tfjs adds atomically on GPUs. */
import * as tf from '@tensorflow/tfjs';

/**
 * `x[rows]`, `[rows.length, C]`, differentiable by `x [N, C]`.
 *
 * @param rows Distinct.
 * @throws Error for no row, a row twice, and one that is not there.
 */
export function gatherRows(x: tf.Tensor2D, rows: Int32Array): tf.Tensor2D {
  const places = placesOf('gatherRows', rows, x.shape[0]);
  const gather = tf.customGrad(() => ({
    value: tf.gather(x, tf.tensor1d(rows, 'int32')),
    gradFunc: (dy: tf.Tensor) => tf.tidy(() => putRows(dy as tf.Tensor2D, places)),
  }));
  return gather(x) as tf.Tensor2D;
}

/** For each of `count` rows its index in `rows`, or `rows.length` where it is not among them. */
export function placesOf(who: string, rows: Int32Array, count: number): Int32Array {
  if (rows.length === 0) {
    throw new Error(`${who} needs at least one row, got none: leave out batches without labels.`);
  }
  const places = new Int32Array(count).fill(rows.length);
  rows.forEach((row, i) => {
    if (places[row] !== rows.length) {
      throw new Error(`${who} needs distinct rows of [0, ${count}), got rows[${i}] = ${row}.`);
    }
    places[row] = i;
  });
  return places;
}

/** Rows of `values` where `places` says, zeros elsewhere. */
export function putRows(values: tf.Tensor2D, places: Int32Array): tf.Tensor2D {
  const withZeros = tf.concat([values, tf.zeros<tf.Rank.R2>([1, values.shape[1]])]);
  return tf.gather(withZeros, tf.tensor1d(places, 'int32'));
}
