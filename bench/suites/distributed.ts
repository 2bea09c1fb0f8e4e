/**
 * @file The suite `distributed`: training steps of the example application on one GPU and on several, a process each.
 *
 * - `data`: each rank has a row of its own, and gradients are summed. So n ranks do n times the work in a step.
 * - `context`: the ranks share one long row.
 * - `longest`: the longest row that they can share.
 *
 * Each measurement runs in processes of its own. Memory that runs out is a result and does not end the suite.
 */
import type {Dtype} from '../../examples/finetune/commands/train_options.js';
import type {ModelName} from '../finetune/models.js';
import type {RankFigures, RankStepOptions} from '../finetune/rank_steps.js';
import type {Failure} from '../failure.js';
import type {BenchRecord, Emit, Figures} from '../record.js';
import {inRanks} from '../ranks.js';

export const DISTRIBUTED_PARTS = ['data', 'context', 'longest'] as const;
export type DistributedPart = (typeof DISTRIBUTED_PARTS)[number];

/** Masks of the part `context`. */
export const SHARED_MASKS = ['causalDocument', 'causal'] as const;
type SharedMask = (typeof SHARED_MASKS)[number];

type DistributedTask = RankStepOptions['task'];

export interface DistributedOptions {
  parts: DistributedPart[];
  ranks: number[];
  models: ModelName[];
  masks: SharedMask[];
  dataLength: number;
  contextLength: number;
  longestFrom: number;
  longestUpTo: number;
  documentTokens: number;
  steps: number;
  seconds: number;
  timeline: boolean;
  eager: boolean;
  xla: boolean;
  dtype: Dtype;
  /** Starts the processes, where there are no GPUs. */
  mpiexec?: string;
  timeout: number;
  machine?: string;
}

/** How a model is trained: small ones whole, large ones by adapters. */
const taskOf = (model: ModelName): DistributedTask => (model === 'llama-1b' ? 'lora' : 'sft');

/** What one measurement runs. */
interface Case {
  part: DistributedPart;
  model: ModelName;
  mask: SharedMask;
  N: number;
}

function casesOf(options: DistributedOptions): Case[] {
  const {models, masks, dataLength, contextLength, longestFrom} = options;
  // Long rows are for the large model.
  const last = models.at(-1)!;
  const cases: Case[] = [
    ...models.map((model): Case => ({part: 'data', model, mask: 'causalDocument', N: dataLength})),
    ...masks.map((mask): Case => ({part: 'context', model: last, mask, N: contextLength})),
    {part: 'longest', model: last, mask: 'causalDocument', N: longestFrom},
  ];
  return cases.filter(({part}) => options.parts.includes(part));
}

export async function runDistributed(options: DistributedOptions, emit: Emit): Promise<void> {
  for (const each of casesOf(options)) {
    for (const ranks of options.ranks) emit(await measure(each, ranks, options));
  }
}

async function measure(each: Case, ranks: number, options: DistributedOptions): Promise<BenchRecord> {
  const {part, model, mask, N} = each;
  const {eager, xla, dtype, steps, seconds, timeline, documentTokens, longestUpTo} = options;
  const task = taskOf(model);
  const together = part !== 'data';
  // Long rows leave no room for the activations of all blocks.
  const keepActivations = !together;
  const how = {...(eager && {eager}), ...(xla && {xla}), ...(dtype !== 'float32' && {dtype})};
  const asked: RankStepOptions = {
    model, task, N, together, keepActivations, eager, xla, dtype, steps, seconds, timeline,
    ...(mask === 'causal' && {documents: 1}), ...(part === 'longest' && {longest: {upTo: longestUpTo * ranks, documentTokens}}),
  }; // prettier-ignore
  const launch = {ranks, mpiexec: options.mpiexec, milliseconds: 1000 * options.timeout};
  const start = performance.now();
  const {figures, failure} = await inRanks<RankFigures>(asked, launch);
  const took = (performance.now() - start) / 1000;
  const call = {suite: 'distributed', part, backend: 'tensorflow', model, task, mask, N, ranks, keepActivations, ...how} as const; // prettier-ignore
  const device = options.machine ?? figures[0]?.device ?? 'unknown';
  return {...call, ...resultOf(part, figures[0], failure), device, seconds: took};
}

/** The figures of a measurement, or why there are none. A failure that comes after them is told too. */
function resultOf(part: DistributedPart, own: RankFigures | null, failure: Failure | null): Figures {
  if (own === null) return failure ?? {outcome: 'failed', reason: 'the processes ended without figures'};
  const after = failure === null ? {} : {reason: failure.reason};
  if (part !== 'longest') return {...own, ...after};
  const {N: longestN, nextN, ...figures} = own;
  if (failure === null) return {...figures, longestN};
  // Memory that ran out is what ends it.
  return {...figures, longestN, nextN, ...(failure.outcome !== 'out of memory' && after)};
}
