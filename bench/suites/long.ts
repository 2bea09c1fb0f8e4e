/**
 * @file The suite `long`: one forward and one backward on WebGPU with tensors as large as buffers allow, larger than a
 * storage binding covers. The device makes the inputs. Rows of the results are compared with float64.
 */
import * as tf from '@tensorflow/tfjs';
import {peakBytes} from '../../examples/finetune/memory.js';
import type {FlashMask} from '../../src/entries/index.js';
import type {Layout} from '../../src/call/kernel_names.js';
import {bufferOf, type WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {lowerBindingLimit} from '../../src/backends/webgpu/run/size_limits.js';
import {AttentionKernels} from '../attention.js';
import {webgpuDevice} from '../backend.js';
import {once, readOne} from '../clock.js';
import {drawnTensor, readElements, type Drawn} from '../long/inputs.js';
import {reference, rowStart, SEEDS, type LongCall} from '../long/reference.js';
import {equal, maskOf} from '../masks.js';
import {passFigures, type Emit, type Figures} from '../record.js';
import {Bench, callsOf, type CommonOptions} from './suite.js';

interface LongOptions extends CommonOptions {
  layout: Layout;
  /** Number of equal documents of causalDocument. */
  documents: number;
  /** Most bytes that a binding may cover, in place of the device's limit. */
  binding?: number;
}

type Results = Record<'out' | 'lse' | 'dq' | 'dk' | 'dv', tf.Tensor>;

/** The largest error allowed. */
const ALLOWED: Record<string, number> = {auto: 1e-4, float32: 1e-4, float16: 3e-2};

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
async function worstErrors(call: LongCall, borders: readonly number[], results: Results): Promise<Figures['errors']> {
  const backend = tf.backend() as unknown as WebGPUBackend;
  const {N, H} = call;
  // Not a document's first row: its only weight is 1, so its gradients are zeros.
  const rows = [1, Math.floor(0.7 * N), N - 1];
  const columns = [borders[borders.length >> 1] - 1, N - 3];
  const worst = {out: 0, lse: 0, dq: 0, dk: 0, dv: 0};
  for (const head of new Set([0, H - 1])) {
    const rowsOf = reference(call, head, borders);
    for (const name of ['out', 'lse', 'dq', 'dk', 'dv'] as const) {
      for (const row of name === 'dk' || name === 'dv' ? columns : rows) {
        const expected = Array.from(rowsOf[name](row));
        const start = name === 'lse' ? head * N + row : rowStart(call, head, row);
        const values = await readElements(backend, bufferOf(backend, results[name]), start, expected.length);
        const error =
          Math.max(...expected.map((x, i) => Math.abs(x - values[i]))) / Math.max(...expected.map(Math.abs));
        worst[name] = Number.isNaN(error) ? Infinity : Math.max(worst[name], error);
      }
    }
  }
  return worst;
}

/** Runs `work` on inputs of drawn values, `[1, H, N, D]` or `[1, N, H, D]`. */
async function withInputs<T>({N, H, D, layout}: LongCall, work: (inputs: readonly Drawn[]) => Promise<T>): Promise<T> {
  const backend = tf.backend() as unknown as WebGPUBackend;
  const inputs = Object.values(SEEDS).map((seed) =>
    drawnTensor(backend, layout === 'bshd' ? [1, N, H, D] : [1, H, N, D], seed),
  );
  try {
    return await work(inputs);
  } finally {
    inputs.forEach((input) => input.release());
  }
}

/** Compiles the shaders of a mask with a short call. All lengths use the same shaders. */
async function warmUp(call: LongCall, name: string, options: LongOptions): Promise<void> {
  const N = Math.min(call.N, 256);
  const mask = maskOf(name, N, Math.min(options.documents, N));
  const {results} = await withInputs({...call, N}, (inputs) => run(inputs, mask, options));
  tf.dispose(Object.values(results));
}

async function measure(call: LongCall, name: string, inputs: readonly Drawn[], options: LongOptions): Promise<Figures> {
  const {N} = call;
  const documents = name === 'causal' ? 1 : Math.min(options.documents, N);
  const mask = maskOf(name, N, documents);
  let ran: Awaited<ReturnType<typeof run>> | undefined;
  const more = await peakBytes(async () => {
    ran = await run(inputs, mask, options);
  });
  const {results, forwardMs, backwardMs} = ran!;
  await readOne();
  const borders = equal(documents, N).reduce((ends, length) => [...ends, ends[ends.length - 1] + length], [0]);
  const errors = await worstErrors(call, borders, results);
  tf.dispose(Object.values(results));
  const masked = mask.sparsity().maskedPairs;
  const figures: Figures = {
    masked,
    ...passFigures({...call, masked}, forwardMs, backwardMs),
    peakBytes: more + inputs.reduce((sum, {bytes}) => sum + bytes, 0),
    errors,
  };
  const allowed = ALLOWED[options.precision];
  if (Math.max(...Object.values(errors!)) <= allowed) return figures;
  return {...figures, outcome: 'failed', reason: `errors must be at most ${allowed}, got ${JSON.stringify(errors)}`};
}

export async function runLong(options: LongOptions, emit: Emit): Promise<void> {
  const bench = await Bench.start('long', options, emit);
  const {layout, precision, binding} = options;
  if (binding) lowerBindingLimit(webgpuDevice(), binding);
  for (const {mask, ...sizes} of callsOf(options)) {
    const call = {...sizes, layout};
    await bench.measure({precision, attention: 'flash', mask, ...sizes}, async () => {
      await warmUp(call, mask, options);
      return withInputs(call, (inputs) => measure(call, mask, inputs, options));
    });
  }
}
