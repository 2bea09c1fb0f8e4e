/** @file The table of embeddings, with a gradient that does not depend on the order of atomic additions. */
import * as tf from '@tensorflow/tfjs';

/** Most bytes of one-hot ids that the gradient of the embeddings holds at a time. */
const ONE_HOT_BYTES = 2 ** 26;

/** The rows of `table [vocabSize, channels]` at `ids [N]`. Differentiable by the table if it is a variable. */
export function embed(table: tf.Tensor2D, ids: tf.Tensor1D): tf.Tensor2D {
  if (!(table instanceof tf.Variable)) return tf.gather(table, ids);
  const gather = tf.customGrad((...args) => {
    const [rows, save] = args as unknown as [tf.Tensor2D, tf.GradSaveFunc];
    save([ids]);
    const gradFunc = (dy: tf.Tensor, saved: tf.Tensor[]) =>
      tf.tidy(() => sumById(dy as tf.Tensor2D, saved[0] as tf.Tensor1D, rows.shape[0]));
    return {value: tf.gather(rows, ids), gradFunc};
  });
  return gather(table) as tf.Tensor2D;
}

/**
 * Sums the rows of `dy [N, channels]` that have the same id, `[count, channels]`. It multiplies by one-hot ids, because
 * tfjs's scattered sum adds floats atomically on GPUs and a resumed training would then differ.
 */
function sumById(dy: tf.Tensor2D, ids: tf.Tensor1D, count: number): tf.Tensor2D {
  const idsAtOnce = Math.max(1, Math.floor(ONE_HOT_BYTES / 4 / ids.shape[0]));
  const parts: tf.Tensor2D[] = [];
  for (let first = 0; first < count; first += idsAtOnce) {
    const depth = Math.min(idsAtOnce, count - first);
    const part = tf.tidy(() => {
      // Not tf.oneHot: on tfjs's wasm backend it returns integers instead of floats.
      const known = tf.range(first, first + depth, 1, 'int32');
      const chosen = tf.equal(ids.expandDims(1), known.expandDims(0)).cast('float32') as tf.Tensor2D;
      return tf.matMul<tf.Tensor2D>(chosen, dy, true, false);
    });
    parts.push(part);
  }
  return tf.concat(parts, 0);
}
