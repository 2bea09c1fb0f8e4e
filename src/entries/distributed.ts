/**
 * @file Entry `tfjs-flashmask/distributed`: several processes that compute together, one for each GPU. It imports the
 * entry `tfjs-flashmask/node`. Import it before tfjs-node: it gives each process of a launcher its own GPU.
 *
 * @module tfjs-flashmask/distributed
 */
import './node.js';
import {chooseDevice} from '../distributed/visible_devices.js';

chooseDevice();

export {
  type ContextParallelAttentionOptions,
  type ContextParallelOptions,
  contextParallelAttention,
  ContextParallelPlan,
  planContextParallel,
  type RowExchange,
} from '../distributed/context_parallel.js';
export {type InitOptions, type World, init} from '../distributed/init.js';
export type {Partners, ProcessGroup, Reduction} from '../distributed/process_group.js';
