/** @file The parts of the WebGPU benchmark: what each calls, and how a call becomes a record. */
import * as tf from '@tensorflow/tfjs-core';
import {flashMaskAttention, masks, type FlashMask} from '../../src/entries/index.js';
import {denseAttention, denseBias, denseObstacle, difference, gradsOf, type Attention} from '../dense.js';
import {peakBytesOf, settle, surfaceErrors, time, type TimeOptions} from '../measure.js';
import {scaled} from '../native_masks.js';
import {type Inputs, MaskedAttention} from './attention.js';
import {paperMasks, type PaperMask} from './paper_masks.js';
import type {PipelineCount} from './pipelines.js';
import type {Call, CompileRecord, DenseRecord, MeasuredRecord, MemoryRecord, Part, SpeedRecord} from './records.js';

/** What to measure, on the current backend. */
export interface Plan {
  masks: readonly PaperMask[];
  dims: readonly number[];
  /** Of the parts masks, targets, fit and memory (the latter three take the first one); each part has its own unless given. */
  lengths?: readonly number[];
  /** Each part has its own, by the length, unless given. */
  heads?: number;
  denseLength: number;
  longLength: number;
  seconds: number;
}

/** A measurement that has not been made yet. */
export interface Task {
  part: Part;
  mask: string;
  N: number;
  H: number;
  D: number;
  measure: (call: Call, context: Context) => Promise<MeasuredRecord>;
}

/** What measurements share. */
export interface Context {
  timing: TimeOptions;
  pipelines: PipelineCount;
  /** Inputs of these sizes: those of the task before, if they fit. */
  inputsOf: (sizes: Pick<Call, 'N' | 'H' | 'D'>) => Inputs;
}

/** Before a measurement: an idle GPU takes half a second of work to clock up. */
export const WARM_UP_SECONDS = 0.5;

const TARGET_LENGTH = 8192;
const MASK_LENGTHS = [8192, 32768];
const LONG_MASKS: readonly PaperMask[] = ['causal', 'causalDocument', 'slidingWindow'];
const COMPILE_LENGTH = 1024;
const DENSE_HEADS = 8;
/** Of which the packed documents of the part `fit` have equal lengths: from the causal triangle to small blocks. */
const DOCUMENT_COUNTS = [1, 2, 4, 8, 16, 32, 64];

/** 32 heads up to 8192 tokens, then as many as keep all heads' tokens together the same, but 4 at least. */
function headsOf({heads}: Plan, N: number): number {
  return heads ?? Math.max(4, Math.min(32, Math.floor((32 * TARGET_LENGTH) / N)));
}

/** The tasks of a part, those of equal sizes together. */
export function tasksOf(part: Part, plan: Plan): Task[] {
  return plan.dims.flatMap((D) => TASKS[part](plan, D));
}

const TASKS: Record<Part, (plan: Plan, D: number) => Task[]> = {
  compile: ({heads = 2}, D) => [
    {part: 'compile', mask: 'causalDocument', N: COMPILE_LENGTH, H: heads, D, measure: compile},
  ],
  targets: (plan, D) => [speedTask('targets', 'causal', plan.lengths?.[0] ?? TARGET_LENGTH, plan, D)],
  dense: ({denseLength: N, heads = DENSE_HEADS}, D) => [
    {part: 'dense', mask: 'causal', N, H: heads, D, measure: dense},
  ],
  masks: (plan, D) =>
    (plan.lengths ?? MASK_LENGTHS).flatMap((N) => plan.masks.map((mask) => speedTask('masks', mask, N, plan, D))),
  long: (plan, D) =>
    LONG_MASKS.filter((mask) => plan.masks.includes(mask)).map((mask) =>
      speedTask('long', mask, plan.longLength, plan, D),
    ),
  fit: (plan, D) => fitTasks(plan.lengths?.[0] ?? TARGET_LENGTH, plan, D),
  memory: (plan, D) => {
    const N = plan.lengths?.[0] ?? TARGET_LENGTH;
    const lengths = [N / 4, N / 2, N, 2 * N, 4 * N].map(Math.floor);
    return lengths.map((length) => ({
      part: 'memory', mask: 'causalDocument', N: length, H: plan.heads ?? DENSE_HEADS, D, measure: memory,
    })); // prettier-ignore
  },
};

function speedTask(part: SpeedRecord['part'], mask: PaperMask, N: number, plan: Plan, D: number): Task {
  return {
    part, mask, N, H: headsOf(plan, N), D,
    measure: (call, context) => speed(part, mask, paperMasks[mask](N), call, context),
  }; // prettier-ignore
}

/** Causal and whole documents, ever more of them in as many tokens. */
function fitTasks(N: number, plan: Plan, D: number): Task[] {
  return (['document', 'causalDocument'] as const).flatMap((kind) =>
    DOCUMENT_COUNTS.map((count) => {
      const mask = `${kind}, ${count}`;
      const build = (): FlashMask => masks[kind](scaled(Array<number>(count).fill(1), N));
      return {
        part: 'fit', mask, N, H: headsOf(plan, N), D,
        measure: (call: Call, context: Context) => speed('fit', mask, build(), call, context),
      } as const; // prettier-ignore
    }),
  );
}

async function speed(
  part: SpeedRecord['part'],
  name: string,
  mask: FlashMask,
  call: Call,
  {inputsOf, timing}: Context,
): Promise<SpeedRecord> {
  const {N, H, D, precision} = call;
  const {maskedPairs: masked, emptyTiles} = mask.sparsity();
  const attention = new MaskedAttention(inputsOf(call), mask, precision);
  try {
    const {ms: forwardMs} = await time(() => attention.forward(), timing);
    const {ms: backwardMs} = await time(() => attention.backward(), timing);
    const tflops = (flopsPerPair: number, ms: number): number =>
      (flopsPerPair * D * H * N * N * (1 - masked)) / ms / 1e9;
    return {
      ...call,
      part,
      mask: name,
      masked,
      tiles: H * Math.round((1 - emptyTiles) * Math.ceil(N / 64) ** 2),
      forwardMs,
      backwardMs,
      forwardTflops: tflops(4, forwardMs),
      backwardTflops: tflops(10, backwardMs),
    };
  } finally {
    attention.dispose();
  }
}

async function dense(call: Call, {inputsOf, timing}: Context): Promise<DenseRecord> {
  const obstacle = denseObstacle(call);
  if (obstacle !== undefined) throw new Error(`bench: dense attention cannot run here: ${obstacle}.`);
  const mask = masks.causal(call.N);
  const [q, k, v, dOut] = inputsOf(call).tensors;
  const {precision} = call;
  const flash: Attention = (a, b, c) => flashMaskAttention(a, b, c, mask, {layout: 'bhsd', precision});
  const milliseconds = async (attention: Attention): Promise<number> => {
    const grads = gradsOf(attention);
    return (await time(() => grads([q, k, v], dOut), timing)).ms;
  };
  const flashMs = await milliseconds(flash);
  const bias = denseBias(mask);
  try {
    const attention = denseAttention(bias);
    const denseMs = await milliseconds(attention);
    const off = await difference(mask, attention, [q, k, v], {precision});
    return {...call, part: 'dense', mask: 'causal', flashMs, denseMs, difference: off};
  } finally {
    bias.dispose();
  }
}

/** Lengths beside the first: twice it, one that no tile divides, and a shorter one. */
const otherLengthsOf = (N: number): number[] => [2 * N, N + 37, N / 2];

async function compile(call: Call, context: Context): Promise<CompileRecord> {
  const first = await runOnce(call, context);
  const again = await runOnce(call, context);
  const otherLengths = otherLengthsOf(call.N);
  let otherPipelines = 0;
  for (const N of otherLengths) otherPipelines += (await runOnce({...call, N}, context)).pipelines;
  return {
    ...call,
    part: 'compile',
    mask: 'causalDocument',
    firstForwardMs: first.forwardMs,
    firstBackwardMs: first.backwardMs,
    againMs: again.forwardMs + again.backwardMs,
    pipelines: first.pipelines,
    otherLengths,
    otherPipelines,
  };
}

/** A forward, and a backward after it: how long each took, and the pipelines that they compiled. */
interface Once {
  forwardMs: number;
  backwardMs: number;
  pipelines: number;
}

async function runOnce(call: Call, {inputsOf, pipelines}: Context): Promise<Once> {
  const attention = new MaskedAttention(inputsOf(call), paperMasks.causalDocument(call.N), call.precision);
  // What tfjs compiled for the inputs is not of the attention.
  await settle();
  const before = pipelines.count;
  const milliseconds = async (run: () => tf.Tensor[]): Promise<number> => {
    const start = performance.now();
    const results = run();
    await settle();
    const ms = performance.now() - start;
    tf.dispose(results);
    return ms;
  };
  const forwardMs = await milliseconds(() => attention.forward());
  const backwardMs = await milliseconds(() => attention.backward());
  const once = {forwardMs, backwardMs, pipelines: pipelines.count - before};
  await surfaceErrors(() => attention.forward());
  await surfaceErrors(() => attention.backward());
  attention.dispose();
  return once;
}

async function memory(call: Call, {inputsOf}: Context): Promise<MemoryRecord> {
  const mask = paperMasks.causalDocument(call.N);
  const [q, k, v, dOut] = inputsOf(call).tensors;
  const {precision} = call;
  const grads = gradsOf((a, b, c) => flashMaskAttention(a, b, c, mask, {layout: 'bhsd', precision}));
  const run = (): tf.Tensor[] => grads([q, k, v], dOut);
  // What is kept with the mask for later calls is made by the first one.
  await surfaceErrors(run);
  return {...call, part: 'memory', mask: 'causalDocument', peakBytes: await peakBytesOf(run)};
}
