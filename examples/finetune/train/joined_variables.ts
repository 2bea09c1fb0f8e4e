/**
 * @file Treats many variables as one. An optimizer needs a dozen operations per tensor, and for hundreds of small
 * tensors the operations, not the numbers, take the time.
 */
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../host_tensor.js';

/** Variables at least this large stay alone, because joining them takes longer, above all on CPU adapters. */
const LARGE = 2 ** 14;
/** Most elements in a group of joined variables. */
const MOST_JOINED = 2 ** 22;

/** One variable in its own shape, or several as one long vector. */
export class JoinedVariables {
  readonly names: readonly string[];
  readonly shape: readonly number[];
  private readonly variables: readonly tf.Variable[];
  private readonly sizes: number[];

  /** @param all The variables by name. */
  constructor(readonly all: ReadonlyMap<string, tf.Variable>) {
    this.names = [...all.keys()];
    this.variables = [...all.values()];
    this.sizes = this.variables.map(({size}) => size);
    const total = this.sizes.reduce((sum, size) => sum + size, 0);
    this.shape = this.variables.length === 1 ? this.variables[0].shape : [total];
  }

  /** Whether they are matrices. A `JoinedVariables` has only matrices or none. */
  get matrices(): boolean {
    return this.variables[0].rank > 1;
  }

  /** Joins tensors with the names and shapes of the variables. A missing name gives zeros. Call it in a `tf.tidy`. */
  join(tensors: ReadonlyMap<string, tf.Tensor>): tf.Tensor {
    return this.joinAll(this.names.map((name, i) => tensors.get(name) ?? tf.zeros(this.variables[i].shape)));
  }

  /** Cuts joined values into those of the variables, in their shapes. Call it in a `tf.tidy`. */
  cut(joined: tf.Tensor): tf.Tensor[] {
    const parts = this.variables.length === 1 ? [joined] : tf.split(joined, this.sizes);
    return this.variables.map(({shape}, i) => parts[i].reshape(shape));
  }

  private joinAll(tensors: readonly tf.Tensor[]): tf.Tensor {
    return tensors.length === 1 ? tensors[0] : tf.concat(tensors.map((tensor) => tensor.flatten()));
  }

  /** Splits joined numbers into one tensor per name. */
  split(joined: Float32Array): [string, HostTensor][] {
    let start = 0;
    return this.variables.map(({shape, size}, i) => {
      start += size;
      return [this.names[i], {shape, data: joined.slice(start - size, start)}];
    });
  }
}

/** Groups variables: large ones alone, small ones joined, matrices apart from vectors. */
export function joinVariables(variables: ReadonlyMap<string, tf.Variable>): JoinedVariables[] {
  const entries = [...variables];
  const small = entries.filter(([, {size}]) => size < LARGE);
  const groups = [
    ...entries.filter(([, {size}]) => size >= LARGE).map((entry) => [entry]),
    ...fill(
      small.filter(([, {rank}]) => rank > 1),
      sizeOf,
      MOST_JOINED,
    ),
    ...fill(
      small.filter(([, {rank}]) => rank <= 1),
      sizeOf,
      MOST_JOINED,
    ),
  ];
  return groups.map((group) => new JoinedVariables(new Map(group)));
}

const sizeOf = ([, {size}]: [string, tf.Variable]): number => size;

/** Groups neighbours: up to `most` elements together, and a larger one alone. */
export function fill<T>(items: readonly T[], sizeOfItem: (item: T) => number, most: number): T[][] {
  const groups: T[][] = [];
  let room = 0;
  for (const item of items) {
    const size = sizeOfItem(item);
    if (size > room) {
      groups.push([]);
      room = most;
    }
    groups.at(-1)!.push(item);
    room -= size;
  }
  return groups;
}
