/**
 * @file How a pass with few queries (decoding) is divided into workgroups. With one workgroup per head most of a large
 * GPU would idle while each workgroup walks over all keys, and each key head would be read once per query head. So the
 * query heads of a key head are folded into the rows of one workgroup. The keys are split over several workgroups, and
 * one more pass combines their results.
 */
import type {VectorPlan} from './vector_plan.js';
import type {Problem} from '../../../call/problem.js';

/** Head folding and key splits of a pass over queries. Both are uniforms, so no shader depends on them. */
export interface KeySplit {
  /** Query heads of one key head that share a workgroup: row r is query r mod Sq of head r div Sq. */
  foldedHeads: number;
  /**
   * Workgroups that share the keys of a head. Split s takes the key blocks s, s + splits, ..., so that the keys of a
   * short window are spread over many splits.
   */
  splits: number;
}

/** Limits on the number of key splits. */
export interface SplitLimits {
  /** Workgroups that fill the device. */
  workgroups: number;
  /** Smallest number of key blocks per split: with fewer, combining would cost more than splitting saves. */
  keyBlocks: number;
}

/**
 * A large GPU has over a hundred cores and hides memory latency only with several of these small workgroups per core.
 */
export const SPLIT_LIMITS: SplitLimits = {workgroups: 1024, keyBlocks: 4};

/** One workgroup per head and block of queries. */
export const NO_SPLIT: KeySplit = {foldedHeads: 1, splits: 1};

/** The fields of a plan that head folding and key splits depend on. */
type QueryPass = Pick<VectorPlan, 'fewQueries' | 'blockQ' | 'blockK'>;

/**
 * Chooses head folding and key splits of a pass over queries. They do not depend on the mask's bounds, which may exist
 * only on the device.
 */
export function keySplitOf(p: Problem, pass: QueryPass, limits = SPLIT_LIMITS): KeySplit {
  if (!pass.fewQueries) return NO_SPLIT;
  const foldedHeads = foldedHeadsOf(p, pass.blockQ);
  const wanted = Math.ceil((limits.workgroups * foldedHeads) / (p.B * p.H));
  const most = Math.floor(Math.ceil(p.Sk / pass.blockK) / limits.keyBlocks);
  return {foldedHeads, splits: Math.max(1, Math.min(wanted, most))};
}

/**
 * The largest number of heads that divides the query heads of a key head evenly and whose queries fit the rows. It is 1
 * if the query heads of a key head have different mask heads.
 */
function foldedHeadsOf(p: Problem, rows: number): number {
  if (p.Hm > p.Hkv) return 1;
  const groupSize = p.H / p.Hkv;
  let heads = Math.min(groupSize, Math.max(1, Math.floor(rows / p.Sq)));
  while (groupSize % heads !== 0) heads--;
  return heads;
}

/** Number of workgroups of a pass over queries. */
export function workgroupsOf(p: Problem, pass: QueryPass, keySplit: KeySplit): number {
  return ((p.B * p.H) / keySplit.foldedHeads) * Math.ceil(p.Sq / pass.blockQ) * keySplit.splits;
}

/** Largest number of keys that one workgroup of such a pass walks over. */
export function keysOf(p: Problem, pass: QueryPass, keySplit: KeySplit): number {
  return Math.ceil(Math.ceil(p.Sk / pass.blockK) / keySplit.splits) * pass.blockK;
}
