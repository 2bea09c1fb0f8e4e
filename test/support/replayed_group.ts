/**
 * @file All ranks of a group in one process, for tests of what runs on a `ProcessGroup`. Ranks run one after another. A
 * rank whose collective needs a tensor that another has not given yet stops there. It starts again when all ranks have
 * come so far, and then finds the tensors of its earlier collectives.
 */
import * as tf from '@tensorflow/tfjs';
import type {ProcessGroup} from '../../src/distributed/process_group.js';

/** One rank's call of a collective. */
interface Collective {
  name: string;
  values: Float32Array;
  shape: number[];
  sends: readonly number[];
  receives: readonly number[];
}

/** Thrown by a rank that must wait. */
class Waiting extends Error {}

/** Copies of the tensors that ranks have given, by rank and in the order of their calls. */
type Given = Collective[][];

/**
 * Runs a program on every rank.
 *
 * @param program The same calls of collectives on every rank. It runs again from its start after each of them.
 * @returns What each rank's program gave.
 * @throws Error if ranks call different collectives, or with numbers of rows that do not fit.
 */
export function onAllRanks<T>(size: number, program: (group: ProcessGroup) => T): T[] {
  const given: Given = Array.from({length: size}, () => []);
  for (;;) {
    const before = given.map((calls) => calls.length).join();
    const results = given.map((_, rank) => attempt(() => program(groupOf(rank, size, given))));
    if (results.every((result) => result !== null)) return results.map((result) => result!.value);
    if (given.map((calls) => calls.length).join() === before)
      throw new Error('A rank waits for a call that no one makes.');
  }
}

function attempt<T>(run: () => T): {value: T} | null {
  try {
    return {value: run()};
  } catch (error) {
    if (error instanceof Waiting) return null;
    throw error;
  }
}

/** The group as one rank sees it in one attempt. It has the functions that context parallelism uses. */
function groupOf(rank: number, size: number, given: Given): ProcessGroup {
  let calls = 0;
  /** Gives this rank's tensor, and returns the calls of all ranks. */
  const meet = (name: string, x: tf.Tensor, sends: readonly number[], receives: readonly number[]): Collective[] => {
    const index = calls++;
    given[rank][index] ??= {name, values: x.dataSync<'float32'>().slice(), shape: x.shape, sends, receives};
    const all = given.map((of) => of[index]);
    if (all.some((call) => call === undefined)) throw new Waiting();
    check(all);
    return all;
  };
  const allToAll = (x: tf.Tensor, sends: readonly number[], receives: readonly number[]): tf.Tensor =>
    tf.customGrad(() => ({
      value: exchange(meet('allToAll', x, sends, receives), rank),
      gradFunc: (dy: tf.Tensor) => allToAll(dy, receives, sends),
    }))(x);
  const allGather = (x: tf.Tensor): tf.Tensor =>
    tf.concat(meet('allGather', x, [], []).map(({values, shape}) => tf.tensor(values, shape)));
  return {rank, size, allToAll, allGather} as Partial<ProcessGroup> as ProcessGroup;
}

function check(all: readonly Collective[]): void {
  all.forEach(({name, shape, sends, receives}, rank) => {
    if (name !== all[0].name) throw new Error(`Rank ${rank} calls ${name}, rank 0 calls ${all[0].name}.`);
    if (name !== 'allToAll') return;
    if (shape[0] !== sends.reduce((a, b) => a + b)) throw new Error(`Rank ${rank} sends not what it has.`);
    receives.forEach((rows, from) => {
      if (all[from].sends[rank] !== rows) {
        throw new Error(`Rank ${rank} waits for ${rows} rows of rank ${from}, which sends ${all[from].sends[rank]}.`);
      }
    });
  });
}

/** The rows for a rank, by sender. */
function exchange(all: readonly Collective[], rank: number): tf.Tensor {
  const rest = all[rank].shape.slice(1);
  const size = rest.reduce((a, b) => a * b, 1);
  const parts = all.map(({values, sends}) => {
    const first = sends.slice(0, rank).reduce((a, b) => a + b, 0);
    return values.subarray(first * size, (first + sends[rank]) * size);
  });
  const values = Float32Array.from(parts.flatMap((part) => Array.from(part)));
  return tf.tensor(values, [values.length / size, ...rest]);
}
