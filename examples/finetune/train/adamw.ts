/**
 * @file AdamW (Loshchilov and Hutter, arXiv 1711.05101) as `torch.optim.AdamW` computes it, after clipping by the global norm as
 * `torch.nn.utils.clip_grad_norm_` does. With clipped gradients g, at step t:
 *
 *     m = β₁m + (1 - β₁)g;  v = β₂v + (1 - β₂)g²
 *     w = (1 - rate·decay)·w - rate·(m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)
 */
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../host_tensor.js';

export interface AdamWOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  /** Of matrices only: vectors, which scale and shift, are not decayed. */
  weightDecay: number;
  /** Gradients whose global norm is larger are scaled down to it. */
  maxNorm: number;
}

/** PyTorch's, but without weight decay, and the `max_grad_norm` of Hugging Face's `Trainer`. */
export const ADAMW_DEFAULTS: AdamWOptions = {beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0, maxNorm: 1};

/** Variables that are at least this large are worth the dozen operations of a step of their own. */
const LARGE = 2 ** 19;
/** Smaller ones are joined, up to this size: the elements that are copied for it then cost less than the operations saved. */
const MOST_JOINED = 2 ** 22;

const [MEAN, SQUARE] = ['exp_avg', 'exp_avg_sq'];

/** The optimiser of some variables. `dispose()` frees its state, not the variables. */
export class AdamW {
  private readonly options: AdamWOptions;
  private readonly buckets: readonly Bucket[];
  private done = 0;

  /** @param variables By the names that gradients and saved states have. */
  constructor(
    private readonly variables: ReadonlyMap<string, tf.Variable>,
    options: Partial<AdamWOptions> = {},
  ) {
    this.options = {...ADAMW_DEFAULTS, ...options};
    this.buckets = bucketsOf(variables).map((group) => new Bucket(group));
  }

  /** Steps done. */
  get steps(): number {
    return this.done;
  }

  /**
   * Moves the variables by one step. The gradients stay the caller's; a variable without one has a gradient of zeros, so that its
   * momentum still moves it.
   *
   * @param gradients By the variables' names.
   * @returns the global norm before clipping, which the caller disposes. Where it is not finite, the variables are not either.
   */
  step(gradients: ReadonlyMap<string, tf.Tensor>, rate: number): tf.Scalar {
    const unknown = [...gradients.keys()].find((name) => !this.variables.has(name));
    if (unknown !== undefined) {
      throw new Error(`AdamW got a gradient of ${unknown}, which is none of its ${this.variables.size} variables.`);
    }
    this.done++;
    return tf.tidy(() => {
      const joined = this.buckets.map((bucket) => bucket.joinGradients(gradients));
      const norm = tf.stack(joined.map((gradient) => gradient.square().sum())).sum().sqrt() as tf.Scalar;
      const shrink = tf.minimum(1, tf.div(this.options.maxNorm, norm.add(1e-6))) as tf.Scalar;
      const step = {...this.options, shrink, rate, number: this.done};
      this.buckets.forEach((bucket, i) => bucket.step(joined[i], step));
      return norm;
    });
  }

  /** Name and shape of each tensor of the state. */
  get shapes(): ReadonlyMap<string, readonly number[]> {
    const shapes = [...this.variables].flatMap(([name, {shape}]) =>
      [MEAN, SQUARE].map((moment): [string, number[]] => [`${moment}.${name}`, shape]),
    );
    return new Map(shapes);
  }

  /** The state on the host, `exp_avg.<name>` (m) and `exp_avg_sq.<name>` (v) of each variable, one after another. */
  async *download(): AsyncGenerator<[string, HostTensor]> {
    for (const bucket of this.buckets) {
      yield* bucket.download();
    }
  }

  /**
   * Takes over a state, so that the next steps are bit for bit those that would have followed it.
   *
   * @param tensors What `download` gave, in any order.
   * @param steps Steps that had been done.
   * @throws when the state is not that of these variables
   */
  async restore(
    tensors: Iterable<readonly [string, HostTensor]> | AsyncIterable<readonly [string, HostTensor]>,
    steps: number,
  ): Promise<void> {
    const missing = new Map(this.shapes);
    for await (const [name, {shape, data}] of tensors) {
      const expected = missing.get(name);
      if (expected === undefined || !tf.util.arraysEqual(shape, expected)) {
        const reason = expected === undefined ? 'which is none of its own' : `but its own is [${expected.join()}]`;
        throw new Error(`AdamW got a state with ${name} [${shape.join()}], ${reason}: is it another model's?`);
      }
      missing.delete(name);
      this.buckets.forEach((bucket) => bucket.restore(name, data));
    }
    if (missing.size > 0) {
      const [name] = missing.keys();
      throw new Error(`AdamW got a state without ${name}, ${missing.size} tensors are missing: is it another model's?`);
    }
    this.done = steps;
  }

  dispose(): void {
    this.buckets.forEach((bucket) => bucket.dispose());
  }
}

/** What a step is the same in for all variables. */
interface Step extends AdamWOptions {
  rate: number;
  /** From 1. */
  number: number;
  /** Factor of the gradients that clips them, on the device. */
  shrink: tf.Scalar;
}

type Group = readonly (readonly [name: string, variable: tf.Variable])[];

/** Large variables alone, small ones joined; matrices apart from vectors, which have no weight decay. */
function bucketsOf(variables: ReadonlyMap<string, tf.Variable>): Group[] {
  const large = [...variables].filter(([, {size}]) => size >= LARGE).map((entry): Group => [entry]);
  const small = [...variables].filter(([, {size}]) => size < LARGE);
  const groups = [
    joinSmall(small.filter(([, {rank}]) => rank > 1)),
    joinSmall(small.filter(([, {rank}]) => rank <= 1)),
    large,
  ];
  return groups.flat();
}

function joinSmall(variables: Group): Group[] {
  const groups: (readonly [string, tf.Variable])[][] = [];
  let room = 0;
  for (const entry of variables) {
    const {size} = entry[1];
    if (size > room) {
      groups.push([]);
      room = MOST_JOINED;
    }
    groups.at(-1)!.push(entry);
    room -= size;
  }
  return groups;
}

/** Variables that are moved as one: a single one in its own shape, several as one long vector. */
class Bucket {
  private readonly sizes: number[];
  private readonly moments: Record<typeof MEAN | typeof SQUARE, tf.Variable>;

  constructor(private readonly group: Group) {
    this.sizes = group.map(([, {size}]) => size);
    const shape = group.length === 1 ? group[0][1].shape : [this.sizes.reduce((sum, size) => sum + size, 0)];
    const zeros = () => tf.tidy(() => tf.variable(tf.zeros(shape), false));
    this.moments = {[MEAN]: zeros(), [SQUARE]: zeros()};
  }
}
