/** @file Attention over a sequence that several processes share. */
import {type Tensor, type Tensor3D, type Tensor4D, concat, slice, tidy} from '@tensorflow/tfjs-core';
import {type Sizes, checkSizes, toInput} from '../../ops/check_arguments.js';
import {flashMaskAttention} from '../../ops/flash_mask_attention.js';
import {type FlashMaskAttentionOptions, type ReadOptions, readOptions} from '../../ops/options.js';
import {philox4x32} from '../call/dropout.js';
import {describe, fail} from '../call/errors.js';
import {rowsBack, rowsFirst} from './context_parallel/gather.js';
import {ContextParallelPlan, type RowExchange} from './context_parallel/plan.js';
import type {ProcessGroup} from './process_group.js';

export {type ContextParallelOptions, ContextParallelPlan, planContextParallel, type RowExchange} from './context_parallel/plan.js'; // prettier-ignore

/** Options of {@link contextParallelAttention}. */
export interface ContextParallelAttentionOptions extends Omit<FlashMaskAttentionOptions, 'causal'> {
  /**
   * Into how many groups the heads are divided. The keys of a group are sent before the attention of the group before
   * it, so that both can run at a time. Divides the number of key heads. Default: 2 if it can, else 1.
   */
  headGroups?: number;
}

const WHO = 'contextParallelAttention';

/**
 * Attention over one sequence that the processes of a group share. Each has the rows that the plan gives it, and gets
 * the keys and values that these see. The results are those of {@link flashMaskAttention} on the whole sequence, to
 * rounding, in the rows of this process. Differentiable in q, k and v, to any order: gradients of keys and values come
 * back to the process that has them. Every process of the group must call it with the same sizes and options.
 *
 * With `dropout`, which pairs are dropped depends on the seed, the plan and `headGroups`. They are not those that one
 * process drops.
 *
 * @example
 * ```ts
 * const plan = planContextParallel(mask, {ranks: group.size});
 * const [q, k, v] = project(plan.take(embedded, group.rank)); // [B, localLength, heads, channels]
 * const out = contextParallelAttention(group, q, k, v, plan); // [B, localLength, heads, channels]
 * ```
 *
 * @param group The processes of the plan.
 * @param q float32 `[B, L, H, D]`, the queries of this process, or `[B, H, L, D]` with `layout: 'bhsd'`. L is
 *   `plan.localLength`, and the rows are `plan.rows(group.rank)`.
 * @param k float32 `[B, L, Hkv, D]`, the keys of the same rows; H is a multiple of Hkv.
 * @param v float32 `[B, L, Hkv, Dv]`.
 * @param plan What {@link planContextParallel} made of the mask. The same in every process.
 * @returns float32 `[B, L, H, Dv]` in the layout of q; with `returnLogSumExp: true`, that and the log-sum-exp of each
 *   row, `[B, H, L]`.
 * @throws Error naming the rule, the values got and the remedy, before anything is sent.
 * @category Attention
 */
export function contextParallelAttention(
  group: ProcessGroup,
  q: Tensor4D,
  k: Tensor4D,
  v: Tensor4D,
  plan: ContextParallelPlan,
  options: ContextParallelAttentionOptions & {returnLogSumExp: true},
): [Tensor4D, Tensor3D];
export function contextParallelAttention(
  group: ProcessGroup,
  q: Tensor4D,
  k: Tensor4D,
  v: Tensor4D,
  plan: ContextParallelPlan,
  options?: ContextParallelAttentionOptions & {returnLogSumExp?: false},
): Tensor4D;
export function contextParallelAttention(
  group: ProcessGroup,
  q: Tensor4D,
  k: Tensor4D,
  v: Tensor4D,
  plan: ContextParallelPlan,
  options: ContextParallelAttentionOptions = {},
): Tensor4D | [Tensor4D, Tensor3D] {
  const {headGroups, ...others} = options;
  const given = readOptions(others);
  if (given.causal !== undefined) {
    const remedy = "The plan's mask says whether it is causal.";
    fail(WHO, 'the call must be without the option causal', describe(given.causal), remedy);
  }
  const sizes = readSizes([q, k, v], given.layout);
  checkPlan(group, plan, sizes);
  if (group.size === 1) return runWhole([q, k, v], plan, others);
  const groups = readGroups(headGroups, sizes.Hkv);
  const [out, lse] = tidy(() => runGroups({group, plan, given, sizes, groups}, [q, k, v]));
  return given.returnLogSumExp ? [out, lse] : out;
}

/** A checked call. */
interface Call {
  group: ProcessGroup;
  plan: ContextParallelPlan;
  given: ReadOptions;
  sizes: Sizes;
  /** Groups of heads. */
  groups: number;
}

function readSizes([q, k, v]: Tensor4D[], layout: ReadOptions['layout']): Sizes {
  const axes = layout === 'bshd' ? '[B, L, heads, channels]' : '[B, heads, L, channels]';
  return checkSizes(toInput('q', q, axes), toInput('k', k, axes), toInput('v', v, axes), layout);
}

function checkPlan(group: ProcessGroup, plan: ContextParallelPlan, {B, H, Hkv, Sq, Sk}: Sizes): void {
  if (!(plan instanceof ContextParallelPlan)) {
    fail(WHO, 'plan must be a plan', describe(plan), 'Make one of the mask by planContextParallel().');
  }
  if (group.size !== plan.ranks) {
    const got = `a group of ${group.size} and a plan for ${plan.ranks}`;
    fail(WHO, 'the plan must be for the processes of the group', got, 'Plan with {ranks: group.size}.');
  }
  if (Sq !== plan.localLength || Sk !== plan.localLength) {
    const got = `${Sq} queries and ${Sk} keys`;
    const remedy = 'Pass the rows of this process: plan.take(x, group.rank) of the whole sequence.';
    fail(WHO, `q, k and v must have the ${plan.localLength} rows of a rank`, got, remedy);
  }
  const {batch, heads} = plan.mask;
  if ((batch === 1 || batch === B) && [1, Hkv, H].includes(heads)) return;
  const got = `a mask of ${batch} batch rows and ${heads} heads`;
  const rule = `the plan's mask must have 1 or ${B} batch rows, and 1, ${Hkv} or ${H} heads`;
  fail(WHO, rule, got, 'Plan with a mask for this batch and these heads.');
}

function readGroups(headGroups: number | undefined, keyHeads: number): number {
  const groups = headGroups ?? (keyHeads % 2 === 0 ? 2 : 1);
  if (Number.isInteger(groups) && groups >= 1 && keyHeads % groups === 0) return groups;
  const rule = `headGroups must divide the ${keyHeads} key heads`;
  return fail(WHO, rule, describe(headGroups), 'Leave it out for two groups where that is possible.');
}

/** One process has all rows, in their order. */
function runWhole(
  [q, k, v]: Tensor4D[],
  {mask}: ContextParallelPlan,
  options: FlashMaskAttentionOptions,
): Tensor4D | [Tensor4D, Tensor3D] {
  return (flashMaskAttention as (...args: unknown[]) => Tensor4D | [Tensor4D, Tensor3D])(q, k, v, mask, options);
}

function runGroups(call: Call, [q, k, v]: Tensor4D[]): [Tensor4D, Tensor3D] {
  const {group, plan, given, groups} = call;
  const exchange = plan.exchange(group.rank);
  const send = (i: number): Tensor4D[] => [k, v].map((x) => sendRows(call, headsOf(x, call, i), exchange));
  const results: [Tensor4D, Tensor3D][] = [];
  let keys = send(0);
  for (let i = 0; i < groups; i++) {
    const here = keys;
    // Before this group's attention, so that the next group's keys travel meanwhile.
    if (i + 1 < groups) keys = send(i + 1);
    results.push(attend(call, i, headsOf(q, call, i), here));
  }
  const join = <T extends Tensor>(all: T[], axis: number): T => (groups === 1 ? all[0] : (concat(all, axis) as T));
  const headAxis = given.layout === 'bshd' ? 2 : 1;
  return [join(results.map(([out]) => out), headAxis), join(results.map(([, lse]) => lse), 1)]; // prettier-ignore
}

/** A group's heads of q, k or v. */
function headsOf(x: Tensor4D, {groups, given: {layout}}: Call, i: number): Tensor4D {
  if (groups === 1) return x;
  const axis = layout === 'bshd' ? 2 : 1;
  const heads = x.shape[axis] / groups;
  const begin = x.shape.map((_, at) => (at === axis ? i * heads : 0)) as Tensor4D['shape'];
  const size = x.shape.map((length, at) => (at === axis ? heads : length)) as Tensor4D['shape'];
  return slice(x, begin, size);
}

/** Sends the rows of keys or values that others see, and returns those that this process sees. */
function sendRows({group, given: {layout}}: Call, x: Tensor4D, {rows, sends, receives}: RowExchange): Tensor4D {
  const axis = layout === 'bshd' ? 1 : 2;
  return rowsBack(group.allToAll(rowsFirst(x, rows, axis), sends, receives), x, axis) as Tensor4D;
}

function attend({group, plan, given, groups}: Call, i: number, q: Tensor4D, keys: Tensor4D[]): [Tensor4D, Tensor3D] {
  const {scale, layout, dropout, precision, deterministic} = given;
  const {heads} = plan.mask;
  const which = heads === 1 ? ([0, 1] as const) : ([(i * heads) / groups, ((i + 1) * heads) / groups] as const);
  const mask = plan.localMask(group.rank, which);
  const seed = seedOf(given.seed, group.rank, i);
  const [k, v] = keys;
  const options = {scale, layout, dropout, seed, precision, deterministic};
  return flashMaskAttention(q, k, v, mask, {...options, returnLogSumExp: true});
}

/** Each call needs its own seed: rows, keys and heads are counted from 0 in every process and group. */
function seedOf(seed: number, rank: number, headGroup: number): number {
  const words = new Uint32Array(4);
  philox4x32(words, rank, headGroup, 0, 0, seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0);
  return words[0] + (words[1] & 0x1fffff) * 2 ** 32;
}
