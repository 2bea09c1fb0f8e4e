/**
 * @file Activation checkpointing: a part of the network keeps only its input and recomputes its activations in the
 * backward pass (Chen et al., arXiv 1604.06174). Memory then grows by one `[N, hiddenSize]` per part, whatever happens
 * inside.
 */
import * as tf from '@tensorflow/tfjs';

/** The state of tfjs's engine that a gradient inside a gradient disturbs. */
interface EngineState {
  activeTape: unknown;
}

/**
 * `block(x)`, differentiable by `x` and by `variables`. The block must be pure: it runs twice and must give the same
 * result.
 *
 * @param variables All trained variables that the block reads. Nothing else in it gets a gradient.
 */
export function recompute(
  block: (x: tf.Tensor2D) => tf.Tensor2D,
  x: tf.Tensor2D,
  variables: readonly tf.Variable[],
): tf.Tensor2D {
  const run = tf.customGrad((...args) => {
    const input = args[0] as tf.Tensor2D;
    const save = args.at(-1) as unknown as tf.GradSaveFunc;
    save([input]);
    const gradFunc = (dy: tf.Tensor, saved: tf.Tensor[]) => {
      const [again] = saved as [tf.Tensor2D];
      return gradientsOf(block, again, variables, dy);
    };
    return {value: block(input), gradFunc};
  });
  return run(x, ...variables) as tf.Tensor2D;
}

/** Gradients by `x` and `variables`, in this order. A variable that the block does not read gets zeros. */
function gradientsOf(
  block: (x: tf.Tensor2D) => tf.Tensor2D,
  x: tf.Tensor2D,
  variables: readonly tf.Variable[],
  dy: tf.Tensor,
): tf.Tensor[] {
  const engine = tf.engine();
  const state = engine.state as unknown as EngineState;
  // tfjs has one tape and clears it after a gradient outside of a forward pass. The outer tape is still in use here.
  const outer = state.activeTape;
  try {
    const inputs: tf.Tensor[] = [x, ...variables];
    const {value, grads} = engine.gradients(() => block(x), inputs, dy, true);
    value.dispose();
    return grads.map((gradient, i) => gradient ?? tf.zerosLike(inputs[i]));
  } finally {
    state.activeTape = outer;
  }
}
