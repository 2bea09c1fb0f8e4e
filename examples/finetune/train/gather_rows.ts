/** @file Gathers rows of a matrix, with a gradient that avoids tfjs's scattered sum, which is atomic on GPUs. */
import * as tf from '@tensorflow/tfjs';

/**
 * `x[rows]`, `[rows.length, C]`, differentiable by `x [N, C]`.
 *
 * @param rows Distinct row numbers.
 * @throws Error if there is no row, a row twice, or one out of range.
 */
export function gatherRows(x: tf.Tensor2D, rows: Int32Array): tf.Tensor2D {
  const places = placesOf('gatherRows', rows, x.shape[0]);
  const gather = tf.customGrad(() => ({
    value: tf.gather(x, tf.tensor1d(rows, 'int32')),
    gradFunc: (dy: tf.Tensor) => tf.tidy(() => putRows(dy as tf.Tensor2D, places)),
  }));
  return gather(x) as tf.Tensor2D;
}

/** For each of `count` rows its index in `rows`, or `rows.length` if it is absent. */
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

/** Puts the rows of `values` where `places` says, with zeros elsewhere. */
export function putRows(values: tf.Tensor2D, places: Int32Array): tf.Tensor2D {
  const withZeros = tf.concat([values, tf.zeros<tf.Rank.R2>([1, values.shape[1]])]);
  return tf.gather(withZeros, tf.tensor1d(places, 'int32'));
}
