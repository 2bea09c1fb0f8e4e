/**
 * @file How a pass over few queries (decoding) is cut into workgroups. One workgroup a head would leave most of a large GPU idle
 * while each walks over all keys, and would read a key head once for each of its query heads. So query heads of a key head are
 * folded into the rows of one workgroup, and the keys are split over several, whose results one more pass combines.
 */
import type {PassPlan} from './vector_plan.js';
import type {Problem} from '../../../call/problem.js';

/** How a pass over queries is cut: uniforms, so that no shader depends on it. */
export interface Cut {
  /** Query heads of one key head that a workgroup takes: row r is query r mod Sq of its head r div Sq. */
  foldedHeads: number;
  /** Workgroups that share the keys of a head. Split s takes the key blocks s, s + splits, ...: a short window falls to many. */
  splits: number;
}

/** What bounds the number of splits. */
export interface CutLimits {
  /** Workgroups that fill the device. */
  workgroups: number;
  /** Key blocks that a split has at least: with fewer, to combine would cost more than it saves. */
  keyBlocks: number;
}

/** A large GPU has over a hundred cores, and hides the latency of memory only with several of these small workgroups on each. */
export const CUT_LIMITS: CutLimits = {workgroups: 1024, keyBlocks: 4};

/** One workgroup per head and block of queries. */
export const UNCUT: Cut = {foldedHeads: 1, splits: 1};

/** What a cut depends on of the plan of a pass over queries. */
type QueryPass = Pick<PassPlan, 'fewQueries' | 'blockQ' | 'blockK'>;

/** The cut of a pass over queries. It does not depend on the mask's bounds: they may be on the device alone. */
export function cutOf(p: Problem, pass: QueryPass, limits = CUT_LIMITS): Cut {
  if (!pass.fewQueries) return UNCUT;
  const foldedHeads = foldedHeadsOf(p, pass.blockQ);
  const wanted = Math.ceil((limits.workgroups * foldedHeads) / (p.B * p.H));
  const most = Math.floor(Math.ceil(p.Sk / pass.blockK) / limits.keyBlocks);
  return {foldedHeads, splits: Math.max(1, Math.min(wanted, most))};
}

/** The most heads that divide a key head's group evenly and fit the rows; one if each query head has its own mask. */
function foldedHeadsOf(p: Problem, rows: number): number {
  if (p.Hm > p.Hkv) return 1;
  const groupSize = p.H / p.Hkv;
  let heads = Math.min(groupSize, Math.max(1, Math.floor(rows / p.Sq)));
  while (groupSize % heads !== 0) heads--;
  return heads;
}

/** Workgroups of a pass over queries. */
export function workgroupsOf(p: Problem, pass: QueryPass, cut: Cut): number {
  return ((p.B * p.H) / cut.foldedHeads) * Math.ceil(p.Sq / pass.blockQ) * cut.splits;
}

/** The most keys that one of these workgroups walks over. */
export function keysOf(p: Problem, pass: QueryPass, cut: Cut): number {
  return Math.ceil(Math.ceil(p.Sk / pass.blockK) / cut.splits) * pass.blockK;
}
