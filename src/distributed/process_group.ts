/** @file Processes that compute together: what each may ask of all. */
import type {Tensor} from '@tensorflow/tfjs-core';

/** How values of several processes become one. */
export type Reduction = 'sum' | 'mean' | 'max';

/** Partners of {@link ProcessGroup.sendReceive}. */
export interface Partners {
  /** The rank that gets this rank's tensor. Without it, no one does. */
  to?: number;
  /** The rank whose tensor comes here. Without it, zeros come. */
  from?: number;
}

/**
 * Processes that run the same program on their own data, and exchange tensors. PyTorch has the same under this name.
 *
 * Every member must call the same functions in the same order, with tensors that fit each other; anything else is an
 * error in all members, never a wait without end. Tensors are float32. All functions are differentiable: the loss of a
 * group is the sum of the losses of its members, and a gradient is that of this sum.
 */
export interface ProcessGroup {
  /** This process among the members: 0 to `size` - 1. */
  readonly rank: number;
  /** The number of members. */
  readonly size: number;

  /**
   * Combines the members' tensors, element by element. Every member gets the result. `'max'` has no gradient.
   *
   * @param x A tensor of the same shape in every member.
   * @throws Error if the members' calls do not fit each other, or if a member has ended.
   * @example
   * ```ts
   * const loss = group.allReduce(ownLoss, 'mean');
   * ```
   */
  allReduce<T extends Tensor>(x: T, reduction?: Reduction): T;

  /**
   * The members' tensors one after another along the first axis, in the order of ranks.
   *
   * @param x A tensor `[N, ...]` of the same shape in every member.
   * @returns `[size * N, ...]`.
   */
  allGather<T extends Tensor>(x: T): T;

  /**
   * The sum of the members' tensors, of which each member gets one piece along the first axis, in the order of ranks.
   *
   * @param x A tensor `[size * N, ...]` of the same shape in every member.
   * @returns `[N, ...]`.
   */
  reduceScatter<T extends Tensor>(x: T): T;

  /** The tensor of the member `root`, in every member. All give a tensor of its shape. */
  broadcast<T extends Tensor>(x: T, root?: number): T;

  /**
   * Sends rows to every member, and gets rows of every member.
   *
   * @param x `[N, ...]`: first the rows for rank 0, then those for rank 1, and so on.
   * @param sends How many rows go to each rank, `size` numbers that sum to N.
   * @param receives How many rows come from each rank, `size` numbers that sum to M.
   * @returns `[M, ...]`: first the rows of rank 0, then those of rank 1, and so on.
   */
  allToAll<T extends Tensor>(x: T, sends: readonly number[], receives: readonly number[]): T;

  /** Sends this member's tensor to one member and gets that of another. All members call it, also without partners. */
  sendReceive<T extends Tensor>(x: T, partners: Partners): T;

  /** Waits until every member has called it. */
  barrier(): void;

  /**
   * Parts of this group. Members that give the same `color` form one, in the order of their ranks here.
   *
   * @param color A whole number, at least 0.
   */
  split(color: number): ProcessGroup;
}
