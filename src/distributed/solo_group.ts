/** @file The group of a process that runs alone. Its functions give their inputs back, on every backend. */
import {type Tensor, clone, zerosLike} from '@tensorflow/tfjs-core';
import type {Partners, ProcessGroup} from './process_group.js';

/** A group with one member. */
export const soloGroup: ProcessGroup = {
  rank: 0,
  size: 1,
  allReduce: (x) => clone(x),
  allGather: (x) => clone(x),
  reduceScatter: (x) => clone(x),
  broadcast: (x) => clone(x),
  allToAll: (x) => clone(x),
  sendReceive: <T extends Tensor>(x: T, {from}: Partners): T => (from === undefined ? zerosLike(x) : clone(x)),
  barrier: () => undefined,
  split: () => soloGroup,
};
