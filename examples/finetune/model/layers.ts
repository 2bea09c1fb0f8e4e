/**
 * @file The layers that are not a plain product, each with its own gradient. The gradients keep little from the forward
 * pass, run few operations, and compute nothing for frozen weights. tfjs frees the temporaries of a gradient function
 * only at the end of the backward pass, so each function has its own tidy.
 */
import * as tf from '@tensorflow/tfjs';

/** Most bytes of one-hot ids that the gradient of the embeddings holds at a time. */
const ONE_HOT_BYTES = 2 ** 26;

/**
 * `x / sqrt(mean(x²) + epsilon) * gamma` over the channels of `x [N, channels]`. Differentiable by x, and by gamma if
 * it is a variable.
 *
 * The means are products with a constant vector, because on CPU adapters tfjs's row reductions take longer than the
 * model's matrix products.
 */
export function rmsNorm(x: tf.Tensor2D, gamma: tf.Tensor1D, epsilon: number): tf.Tensor2D {
  const [rows, channels] = x.shape;
  const rowMean = (y: tf.Tensor): tf.Tensor2D => tf.matMul(y as tf.Tensor2D, tf.fill([channels, 1], 1 / channels));
  const trained = gamma instanceof tf.Variable;
  const norm = tf.customGrad((...args) => {
    const input = args[0] as tf.Tensor2D;
    const save = args.at(-1) as unknown as tf.GradSaveFunc;
    const inverse = rowMean(input.square()).add(epsilon).rsqrt();
    save([input, inverse, gamma]);
    const gradFunc = (dy: tf.Tensor, saved: tf.Tensor[]) =>
      tf.tidy(() => {
        const [again, inverseSaved, scale] = saved;
        const unit = again.mul(inverseSaved);
        const dUnit = dy.mul(scale);
        const dx = dUnit.sub(unit.mul(rowMean(dUnit.mul(unit)))).mul(inverseSaved);
        const dScale = () => tf.matMul(tf.ones([1, rows]), dy.mul(unit) as tf.Tensor2D).reshape([channels]);
        return trained ? [dx, dScale()] : [dx];
      });
    return {value: input.mul(inverse).mul(gamma), gradFunc};
  });
  return (trained ? norm(x, gamma) : norm(x)) as tf.Tensor2D;
}

/** `silu(gate) * up`, the gated unit of SwiGLU (Shazeer, arXiv 2002.05202), with silu(x) = x · sigmoid(x). */
export function gatedUnit(gate: tf.Tensor2D, up: tf.Tensor2D): tf.Tensor2D {
  const unit = tf.customGrad((...args) => {
    const [g, u, save] = args as unknown as [tf.Tensor2D, tf.Tensor2D, tf.GradSaveFunc];
    save([g, u]);
    const gradFunc = (dy: tf.Tensor, saved: tf.Tensor[]) =>
      tf.tidy(() => {
        const [gateSaved, upSaved] = saved;
        const sigmoid = tf.sigmoid(gateSaved);
        const silu = gateSaved.mul(sigmoid);
        // d silu / dx = sigmoid + silu · (1 - sigmoid)
        const slope = sigmoid.add(silu).sub(silu.mul(sigmoid));
        return [dy.mul(upSaved).mul(slope), dy.mul(silu)];
      });
    return {value: tf.sigmoid(g).mul(g).mul(u), gradFunc};
  });
  return unit(gate, up) as tf.Tensor2D;
}

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
