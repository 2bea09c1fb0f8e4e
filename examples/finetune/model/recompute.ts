/**
 * @file Activation checkpointing: a part of the network keeps its input only, and computes its activations a second time in the
 * backward pass (Chen et al., arXiv 1604.06174). Memory then grows by one `[N, hiddenSize]` a part, whatever happens inside.
 */
import * as tf from '@tensorflow/tfjs';

/** The part of tfjs's engine that a gradient inside a gradient disturbs. */
interface EngineState {
  activeTape: unknown;
}

/**
 * `block(x)`, differentiable by `x` and by `variables`. The block must be pure: it runs twice, and has to give the same both times.
 *
 * @param variables All variables that the block reads and that are trained. Anything else in it gets no gradient.
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

/** Gradients by `x` and `variables`, in this order; zeros where the block does not read a variable. */
function gradientsOf(
  block: (x: tf.Tensor2D) => tf.Tensor2D,
  x: tf.Tensor2D,
  variables: readonly tf.Variable[],
  dy: tf.Tensor,
): tf.Tensor[] {
  const engine = tf.engine();
  const state = engine.state as unknown as EngineState;
  // tfjs has one tape, and clears it after a gradient that is not inside a forward pass: the outer one is still in use here.
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
