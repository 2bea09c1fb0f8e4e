/**
 * @file The suite `long`: one forward and one backward on WebGPU with tensors as large as buffers allow, larger than a
 * storage binding covers. The device makes the inputs. Rows of the results are compared with float64.
 */
import * as tf from '@tensorflow/tfjs';
import {peakBytes} from '../../examples/finetune/memory.js';
import {masks, type FlashMask} from '../../src/entries/index.js';
import type {Layout} from '../../src/call/kernel_names.js';
import {bufferOf, type WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {lowerBindingLimit} from '../../src/backends/webgpu/run/size_limits.js';
import {AttentionKernels} from '../attention.js';
import {once, readOne} from '../clock.js';
import {drawnTensor, readElements, type Drawn} from '../long/inputs.js';
import {Reference, rowStart, type LongCall} from '../long/reference.js';
import {equal} from '../masks.js';
import {tflops, type Figures} from '../record.js';
import {callsOf, type Bench, type CommonOptions} from './suite.js';

export interface LongOptions extends CommonOptions {
  layout: Layout;
  /** Number of equal documents of causalDocument. */
  documents: number;
  /** Most bytes that a binding may cover, in place of the device's limit. */
  binding?: number;
}

type Results = Record<'out' | 'lse' | 'dq' | 'dk' | 'dv', tf.Tensor>;

/** The largest error allowed. */
const ALLOWED: Record<string, number> = {auto: 1e-4, float32: 1e-4, float16: 3e-2};

/** Lengths of a mask's documents. Causal has one document. */
const documentsOf = (name: string, N: number, documents: number): number[] =>
  name === 'causal' ? [N] : equal(Math.min(documents, N), N);

const maskOf = (lengths: readonly number[]): FlashMask =>
  lengths.length === 1 ? masks.causal(lengths[0]) : masks.causalDocument(lengths);

/** Runs both kernels. The backward reads lse and the row statistics. */
async function run(
  inputs: readonly Drawn[],
  mask: FlashMask,
  {layout, precision}: LongOptions,
): Promise<{results: Results; forwardMs: number; backwardMs: number}> {
  const tensors = inputs.map(({tensor}) => tensor);
  const attention = new AttentionKernels(tensors, mask, precision, layout);
  const [[out, lse, rowStats], forwardMs] = await once(() => attention.forwardAll());
  attention.save(tf.clone(out), rowStats, lse.shape);
  const [[dq, dk, dv], backwardMs] = await once(() => attention.backward());
  attention.dispose();
  return {results: {out, lse, dq, dk, dv}, forwardMs, backwardMs};
}

/** Largest error of some rows of the first and the last head, relative to the row's largest value. */
async function worstErrors(
  call: LongCall,
  lengths: readonly number[],
  results: Results,
): Promise<Record<string, number>> {
  const backend = tf.backend() as unknown as WebGPUBackend;
  const {N, H} = call;
  const borders = lengths.reduce((starts, length) => [...starts, starts[starts.length - 1] + length], [0]);
  const worst = {out: 0, lse: 0, dq: 0, dk: 0, dv: 0};
  for (const head of new Set([0, H - 1])) {
    const reference = new Reference(call, head, borders);
    const check = async (name: keyof Results, row: number): Promise<void> => {
      const expected = name === 'lse' ? [reference.lse(row)] : [...reference[name](row)];
      const start = name === 'lse' ? head * N + row : rowStart(call, head, row);
      const values = await readElements(backend, bufferOf(backend, results[name]), start, expected.length);
      const error = Math.max(...expected.map((x, i) => Math.abs(x - values[i]))) / Math.max(...expected.map(Math.abs));
      worst[name] = Number.isNaN(error) ? Infinity : Math.max(worst[name], error);
    };
    // Not a document's first row: its only weight is 1, so its gradients are zeros.
    for (const row of [1, Math.floor(0.7 * N), N - 1]) {
      for (const name of ['out', 'lse', 'dq'] as const) await check(name, row);
    }
    for (const row of [borders[borders.length >> 1] - 1, N - 3]) {
      for (const name of ['dk', 'dv'] as const) await check(name, row);
    }
  }
  return worst;
}

/** Tensors of drawn values `[1, H, N, D]`, or `[1, N, H, D]`. */
function drawnInputs({N, H, D, layout, seeds}: LongCall): Drawn[] {
  const shape: [number, number, number, number] = layout === 'bshd' ? [1, N, H, D] : [1, H, N, D];
  return Object.values(seeds).map((seed) => drawnTensor(tf.backend() as unknown as WebGPUBackend, shape, seed));
}

/** Runs `work` on drawn inputs. */
async function withInputs<T>(call: LongCall, work: (inputs: readonly Drawn[]) => Promise<T>): Promise<T> {
  const inputs = drawnInputs(call);
  try {
    return await work(inputs);
  } finally {
    inputs.forEach((input) => input.release());
  }
}

/** Compiles the shaders of a mask with a short call. All lengths use the same shaders. */
async function warmUp(call: LongCall, name: string, options: LongOptions): Promise<void> {
  const N = Math.min(call.N, 256);
  const mask = maskOf(documentsOf(name, N, options.documents));
  const {results} = await withInputs({...call, N}, (inputs) => run(inputs, mask, options));
  tf.dispose(Object.values(results));
}

async function measure(call: LongCall, name: string, inputs: readonly Drawn[], options: LongOptions): Promise<Figures> {
  const lengths = documentsOf(name, call.N, options.documents);
  let ran: Awaited<ReturnType<typeof run>> | undefined;
  const more = await peakBytes(async () => {
    ran = await run(inputs, maskOf(lengths), options);
  });
  const {results, forwardMs, backwardMs} = ran!;
  await readOne();
  const errors = await worstErrors(call, lengths, results);
  tf.dispose(Object.values(results));
  const visible = lengths.reduce((sum, length) => sum + (length * (length + 1)) / 2, 0);
  const sizes = {...call, masked: 1 - visible / call.N ** 2};
  const figures: Figures = {
    masked: sizes.masked,
    forwardMs,
    forwardTflops: tflops(sizes, 'forward', forwardMs),
    backwardMs,
    backwardTflops: tflops(sizes, 'backward', backwardMs),
    peakBytes: more + inputs.reduce((sum, {bytes}) => sum + bytes, 0),
    errors,
  };
  const allowed = ALLOWED[options.precision];
  if (Math.max(...Object.values(errors)) <= allowed) return figures;
  return {...figures, outcome: 'failed', reason: `errors must be at most ${allowed}, got ${JSON.stringify(errors)}`};
}

export async function runLong(options: LongOptions, start: () => Promise<Bench>): Promise<void> {
  const bench = await start();
  const {layout, precision, binding} = options;
  if (binding) lowerBindingLimit((tf.backend() as unknown as WebGPUBackend).device, binding);
  for (const sizes of callsOf(options)) {
    const call: LongCall = {...sizes, layout, scale: 1 / Math.sqrt(sizes.D), seeds: {q: 1, k: 2, v: 3, dOut: 4}};
    await bench.measure({precision, attention: 'flash', ...sizes}, async () => {
      await warmUp(call, sizes.mask, options);
      return withInputs(call, (inputs) => measure(call, sizes.mask, inputs, options));
    });
  }
}
