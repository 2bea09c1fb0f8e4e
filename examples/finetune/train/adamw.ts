/**
 * @file AdamW (Loshchilov and Hutter, arXiv 1711.05101) as in `torch.optim.AdamW`, after clipping by the global norm as
 * in `torch.nn.utils.clip_grad_norm_`. With clipped gradients g, at step t:
 *
 *     m = β₁m + (1 - β₁)g;  v = β₂v + (1 - β₂)g²
 *     w = (1 - rate·decay)·w - rate·(m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)
 */
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../host_tensor.js';
import {type JoinedVariables, joinVariables} from './joined_variables.js';

export interface AdamWOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  /** Applies to matrices only. Vectors, like those of norms, do not decay. */
  weightDecay: number;
  /** Gradients with a larger global norm are scaled down to it. */
  maxNorm: number;
}

/** Defaults of PyTorch, but without weight decay, and the `max_grad_norm` of Hugging Face's `Trainer`. */
export const ADAMW_DEFAULTS: AdamWOptions = {beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxNorm: 1};

/** Moments of variables that are updated together. */
interface Group {
  variables: JoinedVariables;
  /** m, under PyTorch's name. */
  exp_avg: tf.Variable;
  /** v, under PyTorch's name. */
  exp_avg_sq: tf.Variable;
}

const MOMENTS = ['exp_avg', 'exp_avg_sq'] as const;

/** The optimizer of a set of variables. `dispose()` frees its state, not the variables. */
export class AdamW {
  /** Steps done so far. */
  steps = 0;
  private readonly options: AdamWOptions;
  private readonly groups: readonly Group[];

  /** @param variables By the names that their gradients and the saved state use. */
  constructor(
    private readonly variables: ReadonlyMap<string, tf.Variable>,
    options: Partial<AdamWOptions> = {},
  ) {
    this.options = {...ADAMW_DEFAULTS, ...options};
    this.groups = joinVariables(variables).map((joined) => {
      const zeros = () => tf.tidy(() => tf.variable(tf.zeros([...joined.shape]), false));
      return {variables: joined, exp_avg: zeros(), exp_avg_sq: zeros()};
    });
  }

  /**
   * Updates the variables by one step. The gradients stay the caller's. A variable without a gradient counts as having
   * zeros; its earlier gradients still move it.
   *
   * @param gradients By the variables' names.
   * @returns the global norm of the gradients before clipping, which the caller disposes. If it is not finite, the
   *   variables are spoilt.
   */
  step(gradients: ReadonlyMap<string, tf.Tensor>, rate: number): tf.Scalar {
    this.checkGradients(gradients);
    this.steps++;
    return tf.tidy(() => {
      const joined = this.groups.map(({variables}) => variables.join(gradients));
      const norm = tf
        .stack(joined.map((gradient) => gradient.square().sum()))
        .sum()
        .sqrt() as tf.Scalar;
      const shrink = tf.minimum(1, tf.div(this.options.maxNorm, norm.add(1e-6)));
      this.groups.forEach((group, i) => {
        tf.tidy(() => {
          this.move(group, joined[i], shrink, rate);
        });
      });
      return norm;
    });
  }

  private checkGradients(gradients: ReadonlyMap<string, tf.Tensor>): void {
    for (const [name, {shape}] of gradients) {
      const expected = this.variables.get(name)?.shape;
      if (expected === undefined || !tf.util.arraysEqual(shape, expected)) {
        const reason =
          expected === undefined ? 'which is none of its variables' : `whose variable is [${expected.join()}]`;
        throw new Error(`AdamW got a gradient [${shape.join()}] of ${name}, ${reason}.`);
      }
    }
  }

  /** The formulas above in few operations. The host computes what is the same for all elements. */
  private move(
    {variables, exp_avg: m, exp_avg_sq: v}: Group,
    gradient: tf.Tensor,
    shrink: tf.Tensor,
    rate: number,
  ): void {
    const {beta1, beta2, epsilon, weightDecay} = this.options;
    const part = gradient.mul(shrink.mul(1 - beta1));
    m.assign(m.mul(beta1).add(part));
    v.assign(v.mul(beta2).add(part.square().mul((1 - beta2) / (1 - beta1) ** 2)));
    const correction = Math.sqrt(1 - beta2 ** this.steps);
    const move = m.div(v.sqrt().add(epsilon * correction)).mul((rate * correction) / (1 - beta1 ** this.steps));
    const values = variables.values();
    const decays = weightDecay > 0 && variables.matrices;
    variables.assign((decays ? values.mul(1 - rate * weightDecay) : values).sub(move));
  }

  /** Name and shape of every tensor in the state. */
  get shapes(): ReadonlyMap<string, readonly number[]> {
    return new Map(
      MOMENTS.flatMap((moment) =>
        Array.from(this.variables, ([name, {shape}]): [string, number[]] => [`${moment}.${name}`, shape]),
      ),
    );
  }

  /** The state on the host: `exp_avg.<name>` and `exp_avg_sq.<name>` of every variable (m and v above). */
  async *download(): AsyncGenerator<[string, HostTensor]> {
    for (const group of this.groups) {
      for (const moment of MOMENTS) {
        const joined = (await group[moment].data()) as Float32Array;
        for (const [name, tensor] of group.variables.split(joined)) {
          yield [`${moment}.${name}`, tensor];
        }
      }
    }
  }

  /**
   * Restores a state. The following steps equal those of the downloaded optimizer, bit for bit.
   *
   * @param state The tensors of `download`, in any order.
   * @param steps Steps done before.
   * @throws when it is not a state of these variables. The optimizer is then unusable.
   */
  async restore(
    state: Iterable<readonly [string, HostTensor]> | AsyncIterable<readonly [string, HostTensor]>,
    steps: number,
  ): Promise<void> {
    const missing = new Map(this.shapes);
    const received = new Map<string, HostTensor>();
    for await (const [name, tensor] of state) {
      const expected = missing.get(name);
      if (expected === undefined || !tf.util.arraysEqual(tensor.shape, [...expected])) {
        const reason = expected === undefined ? 'which it does not have' : `and needs [${expected.join()}]`;
        throw new Error(`AdamW got ${name} [${tensor.shape.join()}], ${reason}: the state is of another model.`);
      }
      missing.delete(name);
      received.set(name, tensor);
      this.uploadWhole(received);
    }
    if (missing.size > 0) {
      const [name] = missing.keys();
      throw new Error(`AdamW lacks ${name} and ${missing.size - 1} more: the state is of another model.`);
    }
    this.steps = steps;
  }
  /** Uploads each moment of a group that is complete, and forgets the parts that it was made of. */
  private uploadWhole(received: Map<string, HostTensor>): void {
    for (const group of this.groups) {
      for (const moment of MOMENTS) {
        const {names} = group.variables;
        if (names.every((name) => received.has(`${moment}.${name}`))) {
          tf.tidy(() => {
            const tensors = names.map((name): [string, tf.Tensor] => {
              const {data, shape} = received.get(`${moment}.${name}`)!;
              return [name, tf.tensor(data, shape)];
            });
            group[moment].assign(group.variables.join(new Map(tensors)));
          });
          names.forEach((name) => received.delete(`${moment}.${name}`));
        }
      }
    }
  }

  dispose(): void {
    this.groups.forEach(({exp_avg: m, exp_avg_sq: v}) => tf.dispose([m, v]));
  }
}
