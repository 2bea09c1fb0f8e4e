/**
 * @file Context parallelism: the ranks of a team share the rows of a batch. Each computes its tokens; attention alone
 * looks at those of the others.
 */
import type * as tf from '@tensorflow/tfjs';
import {type ContextParallelPlan, planContextParallel} from '../../../src/distributed/context_parallel.js';
import type {ProcessGroup} from '../../../src/distributed/process_group.js';
import type {Batch} from '../data/batch.js';

/**
 * This rank's part of a batch, in the order of the rows; the whole in a team of one. Answers are the ranges that this
 * rank has of them, which may be empty. Samples and numbers of terms are those of the whole batch.
 *
 * The caller disposes it, before the batch.
 */
export function partOf(batch: Batch, team: ProcessGroup): Batch {
  if (team.size === 1) return {...batch, dispose: () => undefined};
  const plan = planContextParallel(batch.mask(null), {ranks: team.size});
  const plans = new Map([[plan.mask, plan]]);
  const planOf = (window: number | null): ContextParallelPlan => {
    const mask = batch.mask(window);
    if (!plans.has(mask)) plans.set(mask, plan.withMask(mask));
    return plans.get(mask)!;
  };
  const ids = plan.take<tf.Tensor2D>(batch.ids, team.rank);
  const rows = plan.rows(team.rank);
  const places = placesOf(rows, plan.length, batch.ids.shape[0]);
  const labels = places.map((place) => batch.labels[place]);
  return {
    ...batch,
    ids,
    positions: places.map((place) => batch.positions[place]),
    labels,
    answers: batch.answers.map(({start, end, sample}) => ({
      start: before(places, start),
      end: before(places, end),
      sample,
    })),
    shared: {team, plan: planOf, ends: batch.answers.map(({end}) => placeOf(places, end - 1))},
    dispose: () => ids.dispose(),
  };
}

/** The places of a rank's tokens among the flattened `batch · length` of all. */
function placesOf(rows: Int32Array, length: number, batch: number): Int32Array {
  return Int32Array.from({length: batch * rows.length}, (_, i) => {
    return Math.floor(i / rows.length) * length + rows[i % rows.length];
  });
}

/** The index of a number among ascending ones; -1 if it is not there. */
function placeOf(numbers: Int32Array, number: number): number {
  const index = before(numbers, number);
  return numbers[index] === number ? index : -1;
}

/** How many of some ascending numbers are below `limit`. */
export function before(numbers: Int32Array, limit: number): number {
  let [low, high] = [0, numbers.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}
