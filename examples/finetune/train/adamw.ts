/**
 * @file AdamW (Loshchilov and Hutter, arXiv 1711.05101) as in `torch.optim.AdamW`, after clipping by the global norm as
 * in `torch.nn.utils.clip_grad_norm_`. With clipped gradients g, at step t:
 *
 *     m = β₁m + (1 - β₁)g;  v = β₂v + (1 - β₂)g²
 *     w = (1 - rate·decay)·w - rate·(m / (1 - β₁ᵗ)) / (√(v / (1 - β₂ᵗ)) + ε)
 */
import * as tf from '@tensorflow/tfjs';
import {type Traced, traced} from '../../../src/backends/tensorflow/traced/traced.js';
import {adamwStep} from '../../../src/layers/adamw.js';
import type {HostTensor} from '../host_tensor.js';
import {type JoinedVariables, fill, joinVariables} from './joined_variables.js';
import {type Sharing, unshared} from './sharing.js';
import {canCompile} from './trained_model.js';

export interface AdamWOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  /** Applies to matrices only. Vectors, like those of norms, do not decay. */
  weightDecay: number;
  /** Gradients with a larger global norm are scaled down to it. */
  maxNorm: number;
  /** Runs operation by operation on tfjs-node too. */
  eager: boolean;
}

/** Defaults of PyTorch, but without weight decay, and the `max_grad_norm` of Hugging Face's `Trainer`. */
export const ADAMW_DEFAULTS: AdamWOptions = {
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  weightDecay: 0,
  maxNorm: 1,
  eager: false,
};

/** Moments of variables that are updated together; of this rank's piece where ranks divide them. */
interface Group {
  variables: JoinedVariables;
  /** m, under PyTorch's name. */
  exp_avg: tf.Variable;
  /** v, under PyTorch's name. */
  exp_avg_sq: tf.Variable;
}

/** Groups that one call updates. */
interface Batch {
  groups: readonly Group[];
  /** New m, new v and new values of each variable, of each group. */
  move: Traced<tf.Tensor[]>;
}

/** Most elements of a batch that is one function, because its new values and old ones exist at the same time. */
const BATCH_ELEMENTS = 2 ** 24;

const MOMENTS = ['exp_avg', 'exp_avg_sq'] as const;

/** The optimizer of a set of variables. `dispose()` frees its state, not the variables. */
export class AdamW {
  /** Steps done so far. */
  steps = 0;
  private readonly options: AdamWOptions;
  private readonly groups: readonly Group[];
  private readonly batches: readonly Batch[];
  /**
   * The global norm of the gradients, the factor that clips it, and the gradients of each group, joined: those of all
   * ranks, and of them the piece that this rank updates.
   */
  private readonly norm: Traced<tf.Tensor[]>;

  /**
   * @param variables By the names that their gradients and the saved state use.
   * @param sharing How ranks do the steps together. All must then make the same calls.
   */
  constructor(
    private readonly variables: ReadonlyMap<string, tf.Variable>,
    options: Partial<AdamWOptions> = {},
    private readonly sharing: Sharing = unshared,
  ) {
    this.options = {...ADAMW_DEFAULTS, ...options};
    this.groups = joinVariables(variables).map((joined) => {
      const zeros = () => tf.tidy(() => tf.variable(sharing.piece(tf.zeros([...joined.shape])), false));
      return {variables: joined, exp_avg: zeros(), exp_avg_sq: zeros()};
    });
    const most = !this.options.eager && canCompile() ? BATCH_ELEMENTS : 0;
    this.batches = fill(this.groups, ({exp_avg}) => exp_avg.size, most).map((groups) => ({
      groups,
      move: this.traced((inputs) => this.moved(groups, inputs), 'adamw'),
    }));
    this.norm = this.traced((gradients) => this.clipped(gradients), 'clip');
  }

  private traced(fn: (inputs: tf.NamedTensorMap) => tf.Tensor[], name: string): Traced<tf.Tensor[]> {
    return traced(fn, {name, eager: this.options.eager});
  }

  /**
   * Updates the variables by one step, on the sum of the ranks' gradients. The gradients stay the caller's. A variable
   * without a gradient counts as having zeros; its earlier gradients still move it.
   *
   * @param gradients By the variables' names.
   * @returns the global norm of the gradients before clipping, which the caller disposes. If it is not finite, the
   *   variables are spoilt.
   */
  step(gradients: ReadonlyMap<string, tf.Tensor>, rate: number): tf.Scalar {
    this.checkGradients(gradients);
    this.steps++;
    return tf.tidy(() => {
      const [norm, shrink, ...joined] = this.norm(Object.fromEntries(gradients));
      const factors = tf.tensor1d(this.factors(rate));
      let first = 0;
      for (const {groups, move} of this.batches) {
        const own = joined.slice(first, (first += groups.length));
        tf.tidy(() => {
          const values = move(inputsOf(groups, own, {shrink, factors}));
          for (const variable of groups.flatMap(changedOf)) variable.assign(values.shift()!);
        });
      }
      return norm as tf.Scalar;
    });
  }

  private clipped(gradients: tf.NamedTensorMap): tf.Tensor[] {
    const named = new Map(Object.entries(gradients));
    const joined = this.sharing.sum(this.groups.map(({variables}) => variables.join(named)));
    const squares = tf.stack(joined.map((gradient) => gradient.square().sum())).sum();
    const norm = this.sharing.total(squares).sqrt();
    return [norm, tf.minimum(1, tf.div(this.options.maxNorm, norm.add(1e-6))), ...joined];
  }

  /** What the host computes for all elements of a step, in the order in which `moved` reads it. */
  private factors(rate: number): number[] {
    const {beta1, beta2, epsilon, weightDecay} = this.options;
    const correction = Math.sqrt(1 - beta2 ** this.steps);
    return [epsilon * correction, (rate * correction) / (1 - beta1 ** this.steps), 1 - rate * weightDecay];
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

  /** New m, new v and new values of the variables, of each group. */
  private moved(groups: readonly Group[], inputs: tf.NamedTensorMap): tf.Tensor[] {
    const pieces = groups.map((group, i) => this.movedPiece(group, partOf(inputs, i)));
    const values = this.sharing.whole(
      pieces.map(([, , value]) => value),
      groups.map(({variables}) => variables.shape),
    );
    return groups.flatMap(({variables}, i) => [pieces[i][0], pieces[i][1], ...variables.cut(values[i])]);
  }

  /** New m, new v and new value of what this rank updates of a group, of its inputs. */
  private movedPiece({variables}: Group, {m, v, shrink, factors, gradient, ...values}: tf.NamedTensorMap): tf.Tensor[] {
    const {beta1, beta2, weightDecay} = this.options;
    const decays = weightDecay > 0 && variables.matrices;
    const value = this.sharing.piece(variables.join(new Map(Object.entries(values))));
    return adamwStep({gradient, m, v, value}, shrink, factors as tf.Tensor1D, {beta1, beta2, decays});
  }

  /** Name and shape of every tensor in the state. */
  get shapes(): ReadonlyMap<string, readonly number[]> {
    return new Map(
      MOMENTS.flatMap((moment) =>
        Array.from(this.variables, ([name, {shape}]): [string, number[]] => [`${moment}.${name}`, shape]),
      ),
    );
  }

  /**
   * The state on the host: `exp_avg.<name>` and `exp_avg_sq.<name>` of every variable (m and v above). Where ranks
   * share the steps, all must iterate to the end.
   *
   * @param reads With false it gives nothing: a rank that keeps no state sends its pieces to those that do.
   */
  async *download(reads = true): AsyncGenerator<[string, HostTensor]> {
    for (const group of this.groups) {
      const {variables} = group;
      for (const moment of MOMENTS) {
        const whole = tf.tidy(() => this.sharing.whole([group[moment]], [variables.shape])[0].clone());
        const joined = reads ? ((await whole.data()) as Float32Array) : null;
        whole.dispose();
        for (const [name, tensor] of joined === null ? [] : variables.split(joined)) {
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
            group[moment].assign(this.sharing.piece(group.variables.join(new Map(tensors))));
          });
          names.forEach((name) => received.delete(`${moment}.${name}`));
        }
      }
    }
  }

  dispose(): void {
    this.groups.forEach(({exp_avg: m, exp_avg_sq: v}) => {
      tf.dispose([m, v]);
    });
    this.batches.forEach(({move}) => {
      move.dispose();
    });
    this.norm.dispose();
  }
}

/** What a step changes of a group, in the order of its results. */
const changedOf = ({variables, exp_avg, exp_avg_sq}: Group): tf.Variable[] => [
  exp_avg,
  exp_avg_sq,
  ...variables.all.values(),
];

/** The inputs of a batch: those of all groups, and those of each by its number. */
function inputsOf(
  groups: readonly Group[],
  gradients: readonly tf.Tensor[],
  common: tf.NamedTensorMap,
): tf.NamedTensorMap {
  const entries = groups.flatMap(({variables, exp_avg: m, exp_avg_sq: v}, i) =>
    Object.entries({m, v, gradient: gradients[i], ...Object.fromEntries(variables.all)}).map(
      ([name, tensor]): [string, tf.Tensor] => [`${i} ${name}`, tensor],
    ),
  );
  return {...common, ...Object.fromEntries(entries)};
}

/** The inputs of group `i`. */
function partOf(inputs: tf.NamedTensorMap, i: number): tf.NamedTensorMap {
  const own = Object.entries(inputs).filter(([name]) => name.startsWith(`${i} `));
  const {shrink, factors} = inputs;
  return {shrink, factors, ...Object.fromEntries(own.map(([name, tensor]) => [name.slice(`${i} `.length), tensor]))};
}
