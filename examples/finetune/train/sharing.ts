/**
 * @file How ranks share a step of the optimizer. Either each has all gradients, summed over the ranks, and updates all
 * weights; or each has a piece of the sums, updates this piece of the weights and sends it to the others (ZeRO stage 1,
 * Rajbhandari et al., arXiv 1910.02054), so that it keeps a piece of the optimizer's states. The pieces of a tensor are
 * equal parts of its elements, with zeros behind the last.
 */
import * as tf from '@tensorflow/tfjs';
import type {ProcessGroup} from '../../../src/distributed/process_group.js';
import {fill} from './joined_variables.js';

/** Functions of a step. Call them in a `tf.tidy` or a traced function, on every rank alike. */
export interface Sharing {
  /** This rank's gradients to the sums over all ranks, or to this rank's pieces of the sums. */
  sum(gradients: readonly tf.Tensor[]): tf.Tensor[];
  /** What this rank has of a number, which is a sum over all elements, to the number. */
  total(own: tf.Tensor): tf.Tensor;
  /** What this rank updates of a tensor: its piece, or all of it. */
  piece(whole: tf.Tensor): tf.Tensor;
  /** All ranks' pieces to tensors of these shapes. */
  whole(pieces: readonly tf.Tensor[], shapes: readonly (readonly number[])[]): tf.Tensor[];
}

/** A collective of more elements than these has no neighbour in its call: joining would copy them for nothing. */
const JOINED_ELEMENTS = 2 ** 22;

const same = <T>(x: T): T => x;
const undivided = {
  total: same,
  piece: same,
  whole: (pieces: readonly tf.Tensor[]) => [...pieces],
} satisfies Partial<Sharing>;

/** Of a process that trains by itself. */
export const unshared: Sharing = {...undivided, sum: (gradients) => [...gradients]};

export function sharingOf(group: ProcessGroup, {divided}: {divided: boolean}): Sharing {
  if (group.size === 1) return unshared;
  return divided ? dividedAmong(group) : {...undivided, sum: (gradients) => joinedSums(group, gradients)};
}

/** Sums over the ranks, in few calls. */
function joinedSums(group: ProcessGroup, gradients: readonly tf.Tensor[]): tf.Tensor[] {
  return fill(gradients, sizeOf, JOINED_ELEMENTS).flatMap((some) => {
    if (some.length === 1) return [group.allReduce(some[0])];
    const sums = group.allReduce(tf.concat(some.map((gradient) => gradient.flatten())));
    return tf.split(sums, some.map(sizeOf)).map((sum, i) => sum.reshape(some[i].shape));
  });
}

function dividedAmong(group: ProcessGroup): Sharing {
  const {rank, size} = group;
  const lengthOf = (elements: number): number => Math.ceil(elements / size);
  /** `[ranks, elements of a piece]` */
  const rows = (whole: tf.Tensor): tf.Tensor2D => {
    const length = lengthOf(whole.size);
    const flat = whole.flatten();
    return (length * size === whole.size ? flat : flat.pad([[0, length * size - whole.size]])).reshape([size, length]);
  };
  const beside = (tensors: readonly tf.Tensor2D[]): tf.Tensor2D =>
    tensors.length === 1 ? tensors[0] : tf.concat([...tensors], 1);
  const apart = (joined: tf.Tensor2D, lengths: number[]): tf.Tensor2D[] =>
    lengths.length === 1 ? [joined] : tf.split(joined, lengths, 1);
  return {
    sum: (gradients) =>
      fill(gradients, sizeOf, JOINED_ELEMENTS).flatMap((some) => {
        const own = group.reduceScatter(beside(some.map(rows)));
        return apart(
          own,
          some.map((gradient) => lengthOf(gradient.size)),
        ).map((piece) => piece.flatten());
      }),
    total: (own) => group.allReduce(own),
    piece: (whole) => rows(whole).slice([rank, 0], [1, -1]).flatten(),
    whole: (pieces, shapes) => {
      const sizes = shapes.map((shape) => tf.util.sizeFromShape([...shape]));
      const groups = fill([...pieces.keys()], (i) => sizes[i], JOINED_ELEMENTS);
      return groups.flatMap((some) => {
        const own = beside(some.map((i) => pieces[i].reshape([1, -1]) as tf.Tensor2D));
        const all = apart(
          group.allGather(own),
          some.map((i) => pieces[i].size),
        );
        return all.map((each, k) =>
          each
            .flatten()
            .slice(0, sizes[some[k]])
            .reshape([...shapes[some[k]]]),
        );
      });
    },
  };
}

const sizeOf = ({size}: {size: number}): number => size;
