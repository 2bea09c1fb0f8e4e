/**
 * @file The suite `paper`: the WebGPU kernels on one kind of device: the masks of the FlashMask paper, long rows, time
 * against visible tiles, memory against length, first calls, and dense attention beside them.
 */
import * as tf from '@tensorflow/tfjs-core';
import type {FlashMask} from '../../src/entries/index.js';
import {
  AttentionKernels,
  denseObstacle,
  difference,
  flashAttention,
  gradsOf,
  inputsOf,
  withDense,
  type Attention,
  type Sizes,
} from '../attention.js';
import {webgpuDevice} from '../backend.js';
import {once, peakBytesOf, surfaceErrors, time} from '../clock.js';
import {maskOf} from '../masks.js';
import {passFigures, type Call, type Emit, type Figures} from '../record.js';
import {Bench, type CommonOptions} from './suite.js';

/** In running order. `compile` comes first, because it needs a process that has compiled nothing. */
export const PARTS = ['compile', 'causal', 'dense', 'masks', 'long', 'fit', 'memory'] as const;
export type Part = (typeof PARTS)[number];

export const PRECISIONS = ['float16', 'float32'] as const;
type ReadPrecision = (typeof PRECISIONS)[number];

interface PaperOptions extends Omit<CommonOptions, 'lengths' | 'heads' | 'precision'> {
  parts: Part[];
  precisions: ReadPrecision[];
  /** Lengths for masks, causal, fit and memory (the latter three take the first). Default: each part has its own. */
  lengths?: number[];
  /** Default: as many as suit each part. */
  heads?: number;
  denseLength: number;
  longLength: number;
}

type Plan = Pick<PaperOptions, 'masks' | 'lengths' | 'heads' | 'denseLength' | 'longLength'>;

/** A call to measure. */
interface Task extends Sizes {
  mask: string;
  /** Number of documents, where it is not the paper's. */
  documents?: number;
}

interface Setting extends Sizes {
  mask: FlashMask;
  precision: ReadPrecision;
}

/** What measurements share. */
interface Context {
  seconds: number;
  pipelines: {count: number};
}

const LENGTH = 8192;
const MASK_LENGTHS = [8192, 32768];
const LONG_MASKS = ['causal', 'causalDocument', 'slidingWindow'];
const COMPILE_LENGTH = 1024;
const FEW_HEADS = 8;
/** Numbers of packed documents of equal length in the part `fit`: from the causal triangle to small blocks. */
const DOCUMENT_COUNTS = [1, 2, 4, 8, 16, 32, 64];

/** 32 heads up to 8192 tokens. Longer rows have fewer, so that heads · tokens stays the same, but at least 4. */
const headsOf = (N: number): number => Math.max(4, Math.min(32, Math.floor((32 * LENGTH) / N)));

type Row = Omit<Task, 'D'>;

/** The calls of each part. H is the default. */
const CALLS: Record<Part, (plan: Plan, N: number) => Row[]> = {
  compile: () => [{mask: 'causalDocument', N: COMPILE_LENGTH, H: 2}],
  causal: (_, N) => [{mask: 'causal', N, H: headsOf(N)}],
  dense: ({denseLength: N}) => [{mask: 'causal', N, H: FEW_HEADS}],
  masks: ({masks, lengths = MASK_LENGTHS}) => lengths.flatMap((N) => masks.map((mask) => ({mask, N, H: headsOf(N)}))),
  long: ({masks, longLength: N}) =>
    LONG_MASKS.filter((mask) => masks.includes(mask)).map((mask) => ({mask, N, H: headsOf(N)})),
  fit: (_, N) =>
    ['document', 'causalDocument'].flatMap((mask) =>
      DOCUMENT_COUNTS.map((documents) => ({mask, N, H: headsOf(N), documents})),
    ),
  memory: (_, N) =>
    [N / 4, N / 2, N, 2 * N, 4 * N].map((length) => ({mask: 'causalDocument', N: Math.floor(length), H: FEW_HEADS})),
};

const MEASURES: Record<Part, (setting: Setting, context: Context) => Promise<Figures>> = {
  compile, causal: speed, dense: flashBoth, masks: speed, long: speed, fit: speed, memory,
}; // prettier-ignore

/** The tasks of a part. Tasks of equal sizes stand together. */
export const tasksOf = (part: Part, plan: Plan, dims: readonly number[]): Task[] =>
  dims.flatMap((D) =>
    CALLS[part](plan, plan.lengths?.[0] ?? LENGTH).map((call) => ({...call, H: plan.heads ?? call.H, D})),
  );

async function speed(s: Setting, {seconds}: Context): Promise<Figures> {
  const {maskedPairs: masked, emptyTiles} = s.mask.sparsity();
  const tiles = s.H * Math.round((1 - emptyTiles) * Math.ceil(s.N / 64) ** 2);
  const attention = new AttentionKernels(inputsOf(s), s.mask, s.precision);
  try {
    const {ms: forwardMs} = await time(() => attention.forward(), seconds);
    const {ms: backwardMs} = await time(() => attention.backward(), seconds);
    return {masked, tiles, ...passFigures({...s, masked}, forwardMs, backwardMs)};
  } finally {
    attention.dispose();
  }
}

async function bothMs(attention: Attention, [q, k, v, dOut]: tf.Tensor4D[], seconds: number): Promise<number> {
  const grads = gradsOf(attention);
  return (await time(() => grads([q, k, v], dOut), seconds)).ms;
}

async function flashBoth({mask, precision, ...sizes}: Setting, {seconds}: Context): Promise<Figures> {
  const obstacle = denseObstacle(sizes, true);
  if (obstacle !== undefined) throw new Error(`bench: dense attention cannot run here: ${obstacle}.`);
  const inputs = inputsOf(sizes);
  const ms = await bothMs(flashAttention(mask, {precision}), inputs, seconds);
  return withDense(mask, async (dense) => ({
    bothMs: ms,
    difference: await difference(mask, dense, inputs, {precision}),
  }));
}

const denseBoth = ({mask, ...sizes}: Setting, {seconds}: Context): Promise<Figures> =>
  withDense(mask, async (dense) => ({bothMs: await bothMs(dense, inputsOf(sizes), seconds)}));

/** Lengths besides the first: twice it, one that no tile divides, and a shorter one. */
const otherLengthsOf = (N: number): number[] => [2 * N, N + 37, N / 2];

async function compile(setting: Setting, context: Context): Promise<Figures> {
  const first = await runOnce(setting, context);
  const again = await runOnce(setting, context);
  const otherLengths = otherLengthsOf(setting.N);
  let otherPipelines = 0;
  for (const N of otherLengths) {
    otherPipelines += (await runOnce({...setting, N, mask: maskOf('causalDocument', N, 'paper')}, context)).pipelines;
  }
  return {
    firstForwardMs: first.forwardMs,
    firstBackwardMs: first.backwardMs,
    againMs: again.forwardMs + again.backwardMs,
    pipelines: first.pipelines,
    otherLengths,
    otherPipelines,
  };
}

/** Runs a forward, then a backward. Returns the time of each and the number of pipelines that they compiled. */
async function runOnce(
  {mask, precision, ...sizes}: Setting,
  {pipelines}: Context,
): Promise<{forwardMs: number; backwardMs: number; pipelines: number}> {
  const attention = new AttentionKernels(inputsOf(sizes), mask, precision);
  // Exclude the pipelines that tfjs compiled for the inputs.
  const before = pipelines.count;
  const [out, forwardMs] = await once(() => attention.forward());
  const [gradients, backwardMs] = await once(() => attention.backward());
  const result = {forwardMs, backwardMs, pipelines: pipelines.count - before};
  tf.dispose([out, gradients]);
  await surfaceErrors(() => attention.forward());
  await surfaceErrors(() => attention.backward());
  attention.dispose();
  return result;
}

async function memory({mask, precision, ...sizes}: Setting): Promise<Figures> {
  const [q, k, v, dOut] = inputsOf(sizes);
  const grads = gradsOf(flashAttention(mask, {precision}));
  const run = (): tf.Tensor[] => grads([q, k, v], dOut);
  // The first call makes what is kept with the mask for later calls.
  await surfaceErrors(run);
  return {peakBytes: await peakBytesOf(run)};
}

/** Counts the compute pipelines that are made on `device` from now on. */
function countPipelines(device: GPUDevice): {count: number} {
  const made = {count: 0};
  const now = device.createComputePipeline.bind(device);
  const later = device.createComputePipelineAsync.bind(device);
  device.createComputePipeline = (descriptor) => {
    made.count++;
    return now(descriptor);
  };
  device.createComputePipelineAsync = (descriptor) => {
    made.count++;
    return later(descriptor);
  };
  return made;
}

/** A stock device has only float32, because tfjs does not ask for float16. A full device may lack float16 too. */
function precisionsOn({device, precisions}: PaperOptions): ReadPrecision[] {
  const halves = device === 'full' && webgpuDevice().features.has('shader-f16');
  if (device === 'full' && !halves) console.log('full float16: left out, since this device has no shader-f16');
  return precisions.filter((precision) => precision === 'float32' || halves);
}

async function runTask(bench: Bench, part: Part, task: Task, precision: ReadPrecision, context: Context) {
  const {N, H, D, documents} = task;
  const mask = documents === undefined ? task.mask : `${task.mask}, ${documents}`;
  const measure = (attention: Call['attention'], figures: (typeof MEASURES)[Part]) =>
    bench.measure({part, precision, attention, mask, N, H, D}, () =>
      figures({N, H, D, precision, mask: maskOf(task.mask, N, documents ?? 'paper')}, context),
    );
  const flash = await measure('flash', MEASURES[part]);
  if (part === 'dense' && flash.outcome === undefined) await measure('dense', denseBoth);
}

export async function runPaper(options: PaperOptions, emit: Emit): Promise<void> {
  // Switch off the disk caches of NVIDIA's and Mesa's drivers before Dawn loads them, so that a process compiles all.
  process.env.__GL_SHADER_DISK_CACHE = '0';
  process.env.MESA_SHADER_CACHE_DISABLE = 'true';
  const bench = await Bench.start('paper', options, emit);
  const context = {seconds: options.seconds, pipelines: countPipelines(webgpuDevice())};
  const precisions = precisionsOn(options);
  for (const part of options.parts) {
    for (const precision of precisions) {
      for (const task of tasksOf(part, options, options.dims)) await runTask(bench, part, task, precision, context);
    }
  }
}
