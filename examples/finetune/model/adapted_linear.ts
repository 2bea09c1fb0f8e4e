/**
 * @file A frozen projection with its low-rank update as one operation. Neither term outlives it, forward or backward.
 */
import * as tf from '@tensorflow/tfjs';

/** An update s·(m∘x)·Aᵀ·Bᵀ. */
export interface LowRankUpdate {
  /** A, `[rank, in]`. */
  a: tf.Tensor2D;
  /** B, `[out, rank]`. */
  b: tf.Tensor2D;
  scale: number;
  /** The mask m of the dropout, `[N, in]`: 0 where dropped, else above 1. Null for none. */
  kept: tf.Tensor2D | null;
}

/** x·Wᵀ + s·(m∘x)·Aᵀ·Bᵀ, `[N, out]`. Differentiable by x `[N, in]`, A and B. W `[out, in]` is frozen. */
export function adaptedLinear(x: tf.Tensor2D, weight: tf.Tensor2D, {a, b, scale, kept}: LowRankUpdate): tf.Tensor2D {
  const run = tf.customGrad((...args) => {
    const [input, down, up, save] = args as unknown as [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D, tf.GradSaveFunc];
    const mask = (y: tf.Tensor2D, m: tf.Tensor | null | undefined): tf.Tensor2D => (m ? y.mul(m) : y);
    const low: tf.Tensor2D = tf.matMul(mask(input, kept), down, false, true).mul(scale);
    save(kept ? [input, low, kept] : [input, low]);
    const gradFunc = (dy: tf.Tensor, saved: tf.Tensor[]) =>
      tf.tidy(() => {
        const [again, lowAgain, keptAgain] = saved as tf.Tensor2D[];
        const dOut = dy as tf.Tensor2D;
        const dLow: tf.Tensor2D = tf.matMul(dOut, up).mul(scale);
        const dx = tf.matMul(dOut, weight).add(mask(tf.matMul(dLow, down), keptAgain));
        return [dx, tf.matMul(dLow, mask(again, keptAgain), true, false), tf.matMul(dOut, lowAgain, true, false)];
      });
    return {value: tf.matMul(input, weight, false, true).add(tf.matMul(low, up, false, true)), gradFunc};
  });
  return run(x, a, b) as tf.Tensor2D;
}
