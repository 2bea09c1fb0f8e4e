/** @file AdamW with decoupled weight decay, clipping by the global norm, and a warm-up and cosine learning rate. */
import * as tf from '@tensorflow/tfjs';
import type {HostArray} from './npz.js';

export interface AdamWOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  /** Of matrices only: norms are not decayed. */
  weightDecay: number;
  /** Gradients whose global norm is larger are scaled down to it. */
  maxNorm: number;
}

/** What glassllm was trained with. */
export const ADAMW: AdamWOptions = {beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, maxNorm: 1};

/** The learning rate of a step: linear warm-up to `peak`, then a cosine down to a tenth of it. */
export function learningRate(step: number, steps: number, peak: number, warmup: number): number {
  if (step < warmup) {
    return (peak * (step + 1)) / warmup;
  }
  const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  return peak * (0.1 + 0.9 * 0.5 * (1 + Math.cos(Math.PI * progress)));
}

/**
 * The optimiser of a list of variables. It works on all of them as one long vector: some 20 operations a step instead of 20 a
 * weight, which counts where each is a dispatch. `dispose()` frees its state, not the variables.
 */
export class AdamW {
  private readonly sizes: number[];
  private readonly mean: tf.Variable;
  private readonly square: tf.Variable;
  /** 1 for the elements of matrices, 0 for those of vectors. */
  private readonly decays: tf.Tensor1D;

  constructor(
    private readonly variables: readonly tf.Variable[],
    private readonly options: AdamWOptions = ADAMW,
    /** Steps done. */
    public steps = 0,
  ) {
    this.sizes = variables.map(({size}) => size);
    const total = this.sizes.reduce((sum, size) => sum + size, 0);
    const zeros = () => tf.tidy(() => tf.variable(tf.zeros([total])));
    this.mean = zeros();
    this.square = zeros();
    this.decays = tf.tidy(() =>
      tf.concat(variables.map(({size, rank}) => tf.fill([size], rank > 1 ? 1 : 0))),
    ) as tf.Tensor1D;
  }

  /**
   * Moves the variables by one step. The gradients come in the order of the variables and stay the caller's.
   *
   * @returns the gradients' global norm before clipping, a scalar that the caller disposes
   */
  step(gradients: readonly tf.Tensor[], rate: number): tf.Scalar {
    this.steps++;
    const {beta1, beta2, epsilon, weightDecay, maxNorm} = this.options;
    return tf.tidy(() => {
      const gradient = flatten(gradients);
      const norm = gradient.square().sum().sqrt() as tf.Scalar;
      // maxNorm / (norm + 1e-6) where that shrinks, else 1: as glassllm clips.
      const shrink = tf.where(norm.greater(maxNorm), tf.div(maxNorm, norm.add(1e-6)), 1);
      const clipped = gradient.mul(shrink);
      this.mean.assign(this.mean.mul(beta1).add(clipped.mul(1 - beta1)));
      this.square.assign(this.square.mul(beta2).add(clipped.square().mul(1 - beta2)));
      const deviation = this.square
        .div(1 - beta2 ** this.steps)
        .sqrt()
        .add(epsilon);
      const move = this.mean.mul(rate / (1 - beta1 ** this.steps)).div(deviation);
      const kept = tf.sub(1, this.decays.mul(rate * weightDecay));
      this.assign(flatten(this.variables).mul(kept).sub(move));
      return norm;
    });
  }

  private assign(values: tf.Tensor): void {
    tf.split(values, this.sizes).forEach((value, i) => {
      this.variables[i].assign(value.reshape(this.variables[i].shape));
    });
  }

  private state(): [string, tf.Variable][] {
    return [
      ['adamw.mean', this.mean],
      ['adamw.square', this.square],
    ];
  }

  /** The state on the host, for a checkpoint. */
  async download(): Promise<Map<string, HostArray>> {
    const arrays = new Map<string, HostArray>();
    for (const [name, variable] of this.state()) {
      arrays.set(name, {shape: variable.shape, data: (await variable.data()) as Float32Array});
    }
    return arrays;
  }

  /** Takes over the state of a checkpoint. */
  restore(arrays: ReadonlyMap<string, HostArray>, steps: number): void {
    for (const [name, variable] of this.state()) {
      const array = arrays.get(name);
      if (array === undefined || array.data.length !== variable.size) {
        throw new Error(
          `The checkpoint has no ${name} of ${variable.size} numbers. It is another model's: start anew.`,
        );
      }
      tf.tidy(() => variable.assign(tf.tensor1d(array.data)));
    }
    this.steps = steps;
  }

  dispose(): void {
    tf.dispose([this.mean, this.square, this.decays]);
  }
}

function flatten(tensors: readonly tf.Tensor[]): tf.Tensor1D {
  return tf.concat(tensors.map((tensor) => tensor.flatten()));
}
