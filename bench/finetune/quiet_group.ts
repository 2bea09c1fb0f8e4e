/** @file A group whose collectives send nothing: it tells what a rank's step takes without them. Numbers are wrong. */
import * as tf from '@tensorflow/tfjs-core';
import type {ProcessGroup} from '../../src/distributed/process_group.js';

/** Cuts rows off, or adds rows of zeros. */
function withRows<T extends tf.Tensor>(x: T, rows: number): T {
  const rest = x.shape.slice(1);
  if (rows <= x.shape[0]) return tf.slice(x, [0], [rows]);
  const zeros = tf.zeros([rows - x.shape[0], ...rest]);
  return tf.concat([x, zeros]) as T;
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);

/** A group of the same place, whose members neither send nor wait. Shapes are those of the group. */
export function quietGroup({rank, size}: ProcessGroup): ProcessGroup {
  const own: ProcessGroup = {
    rank,
    size,
    allReduce: (x) => tf.clone(x),
    allGather: (x) => tf.tile(x, [size, ...Array<number>(x.rank - 1).fill(1)]),
    reduceScatter: (x) => withRows(x, x.shape[0] / size),
    broadcast: (x) => tf.clone(x),
    allToAll: (x, _sends, receives) => withRows(x, sum(receives)),
    sendReceive: (x) => tf.clone(x),
    barrier: () => undefined,
    split: () => own,
  };
  return own;
}
