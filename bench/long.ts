/**
 * @file `npm run bench:long`: one forward and one backward on WebGPU with tensors as large as buffers can be, past what a storage binding
 * covers. Inputs are made on the device; rows of the results are held against float64.
 *
 *     npm run bench:long -- --n 131072 --heads 32 --dim 128 --masks causal,causalDocument
 */
import * as tf from '@tensorflow/tfjs';
import {Command, Option} from 'commander';
import {peakBytes} from '../examples/finetune/memory.js';
import {FlashMaskAttention, FlashMaskAttentionGrad, masks, type FlashMask} from '../src/entries/index.js';
import type {FlashMaskAttentionAttrs, Layout, Precision} from '../src/call/kernel_names.js';
import {boundsTensorOf} from '../src/mask/bounds/bounds_cache.js';
import {useWebGPU} from '../src/node_webgpu/use_webgpu.js';
import {bufferOf, type WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';
import {bindingLimit, lowerBindingLimit} from '../src/backends/webgpu/run/size_limits.js';
import {drawnTensor, readElements, type Drawn} from './long/inputs.js';
import {Reference, rowStart, type LongCall} from './long/reference.js';
import {settle} from './measure.js';
import {list, positive} from './settings.js';
import {digits, table, type Column} from './tables.js';

interface Options {
  device: 'stock' | 'full';
  precision: Precision;
  layout: Layout;
  masks: string[];
  n: number;
  heads: number;
  dim: number;
  documents: number;
  binding?: number;
}

const MASKS = ['causal', 'causalDocument'] as const;

function readOptions(): Options {
  return new Command('bench:long')
    .addOption(new Option('--device <kind>').choices(['stock', 'full']).default('full'))
    .addOption(new Option('--precision <name>').choices(['auto', 'float32', 'float16']).default('auto'))
    .addOption(new Option('--layout <order>').choices(['bhsd', 'bshd']).default('bhsd'))
    .option('--masks <names>', `of ${MASKS.join(', ')}`, list, [...MASKS])
    .option('--n <N>', 'sequence length', positive, 131072)
    .option('--heads <H>', 'heads', positive, 32)
    .option('--dim <D>', 'head size', positive, 128)
    .option('--documents <count>', 'equal documents of causalDocument', positive, 16)
    .option('--binding <bytes>', 'take bindings to cover no more than this', positive)
    .parse()
    .opts<Options>();
}

/** First rows of the documents, and N: what a mask comes to here. */
function documentsOf(name: string, N: number, documents: number): number[] {
  if (name === 'causal') return [0, N];
  if (name !== 'causalDocument') throw new Error(`bench: no mask '${name}'. Use ${MASKS.join(', ')}.`);
  return Array.from({length: documents + 1}, (_, i) => Math.floor((i * N) / documents));
}

const lengthsOf = (borders: readonly number[]): number[] => borders.slice(1).map((end, i) => end - borders[i]);

function maskOf(borders: readonly number[]): FlashMask {
  return borders.length === 2 ? masks.causal(borders[1]) : masks.causalDocument(lengthsOf(borders));
}

type Results = Record<'out' | 'lse' | 'dq' | 'dk' | 'dv', tf.Tensor>;

interface Run {
  results: Results;
  forwardMs: number;
  backwardMs: number;
}

async function timed<T>(work: () => T): Promise<[T, number]> {
  await settle();
  const start = performance.now();
  const result = work();
  await settle();
  return [result, performance.now() - start];
}

/** Both kernels: through tf.grads the forward would run twice. */
async function run(drawnInputs: Drawn[], mask: FlashMask, {layout, precision}: Options): Promise<Run> {
  const [q, k, v, dOut] = drawnInputs.map(({tensor}) => tensor);
  const attrs: FlashMaskAttentionAttrs = {
    ...{causal: mask.causal, scale: 1 / Math.sqrt(q.shape[3]), layout, precision},
    ...{dropout: 0, seed: 0, deterministic: false},
  };
  const runKernel = (name: string, inputs: tf.NamedTensorMap) => (): tf.Tensor[] =>
    tf.engine().runKernel<tf.Tensor[]>(name, inputs, attrs as unknown as tf.NamedAttrMap);
  const inputs = {q, k, v, bounds: boundsTensorOf(mask, mask.keyLength)};
  const [[out, lse, rowStats], forwardMs] = await timed(runKernel(FlashMaskAttention, inputs));
  const dLse = tf.zeros(lse.shape);
  const [[dq, dk, dv], backwardMs] = await timed(
    runKernel(FlashMaskAttentionGrad, {...inputs, out, rowStats, dOut, dLse}),
  );
  tf.dispose([dLse, rowStats]);
  return {results: {out, lse, dq, dk, dv}, forwardMs, backwardMs};
}

/** Reads a tensor made after all others: an error of the device that they rest on is thrown there. */
async function throwDeviceErrors(): Promise<void> {
  const last = tf.scalar(0);
  await last.data();
  last.dispose();
}

/** Largest error of some rows of the first and the last head, as a part of the row's largest value. */
async function worstErrors(
  backend: WebGPUBackend,
  call: LongCall,
  borders: readonly number[],
  results: Results,
): Promise<Record<keyof Results, number>> {
  const {N, H} = call;
  const worst = {out: 0, lse: 0, dq: 0, dk: 0, dv: 0};
  for (const head of new Set([0, H - 1])) {
    const reference = new Reference(call, head, borders);
    const check = async (name: keyof Results, row: number): Promise<void> => {
      const expected = name === 'lse' ? [reference.lse(row)] : [...reference[name](row)];
      const start = name === 'lse' ? head * N + row : rowStart(call, head, row);
      const values = await readElements(backend, bufferOf(backend, results[name]), start, expected.length);
      const errors = expected.map((x, i) => Math.abs(x - values[i]));
      const error = Math.max(...errors) / Math.max(...expected.map(Math.abs));
      worst[name] = Number.isNaN(error) ? Infinity : Math.max(worst[name], error);
    };
    // Not a document's first row: its only weight is 1, and its gradients are zeros.
    for (const row of [1, Math.floor(0.7 * N), N - 1]) {
      for (const name of ['out', 'lse', 'dq'] as const) await check(name, row);
    }
    for (const row of [borders[borders.length >> 1] - 1, N - 3]) {
      for (const name of ['dk', 'dv'] as const) await check(name, row);
    }
  }
  return worst;
}

interface Row {
  mask: string;
  forwardMs: number;
  backwardMs: number;
  /** Floating-point operations of visible pairs: 4 D of each forward, 10 D backward. */
  forwardFlops: number;
  backwardFlops: number;
  /** Most bytes on the device, inputs and outputs too. */
  peak: number;
  errors: Record<keyof Results, number>;
}

const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(2);

const COLUMNS: Column<Row>[] = [
  ['mask', ({mask}) => mask],
  ['forward ms', ({forwardMs}) => digits(forwardMs)],
  ['TFLOP/s', ({forwardMs, forwardFlops}) => digits(forwardFlops / forwardMs / 1e9)],
  ['backward ms', ({backwardMs}) => digits(backwardMs)],
  ['TFLOP/s', ({backwardMs, backwardFlops}) => digits(backwardFlops / backwardMs / 1e9)],
  ['peak GiB', ({peak}) => gib(peak)],
  [
    'largest errors',
    ({errors}) =>
      Object.entries(errors)
        .map(([name, x]) => `${name} ${x.toExponential(1)}`)
        .join(', '),
  ],
];

/** Tensors of drawn values `[1, H, N, D]`, or `[1, N, H, D]`. */
function inputsOf(backend: WebGPUBackend, {N, H, D, layout, seeds}: LongCall): Drawn[] {
  const shape: [number, number, number, number] = layout === 'bshd' ? [1, N, H, D] : [1, H, N, D];
  return Object.values(seeds).map((seed) => drawnTensor(backend, shape, seed));
}

/** Compiles the shaders of a mask by a short call: they are those of any length. */
async function warmUp(backend: WebGPUBackend, call: LongCall, name: string, options: Options): Promise<void> {
  const N = Math.min(call.N, 256);
  const inputs = inputsOf(backend, {...call, N});
  const {results} = await run(inputs, maskOf(documentsOf(name, N, Math.min(options.documents, N))), options);
  tf.dispose(Object.values(results));
  inputs.forEach((input) => input.release());
}

async function measure(
  backend: WebGPUBackend,
  call: LongCall,
  inputs: Drawn[],
  name: string,
  options: Options,
): Promise<Row> {
  const {N, H, D} = call;
  await warmUp(backend, call, name, options);
  const borders = documentsOf(name, N, options.documents);
  let ran: Run | undefined;
  const peak = await peakBytes(async () => {
    ran = await run(inputs, maskOf(borders), options);
  });
  const {results, forwardMs, backwardMs} = ran!;
  await throwDeviceErrors();
  const errors = await worstErrors(backend, call, borders, results);
  tf.dispose(Object.values(results));
  const pairs = H * lengthsOf(borders).reduce((sum, length) => sum + (length * (length + 1)) / 2, 0);
  return {
    mask: name,
    forwardMs,
    backwardMs,
    forwardFlops: 4 * D * pairs,
    backwardFlops: 10 * D * pairs,
    peak: peak + inputs.reduce((sum, {bytes}) => sum + bytes, 0),
    errors,
  };
}

/** What the largest error may be. */
const ALLOWED: Record<string, number> = {auto: 1e-4, float32: 1e-4, float16: 3e-2};

async function main(): Promise<void> {
  const options = readOptions();
  const {adapter} = await useWebGPU({device: options.device});
  const backend = tf.backend() as unknown as WebGPUBackend;
  if (options.binding) lowerBindingLimit(backend.device, options.binding);
  const {n: N, heads: H, dim: D, layout, precision} = options;
  const call: LongCall = {N, H, D, layout, scale: 1 / Math.sqrt(D), seeds: {q: 1, k: 2, v: 3, dOut: 4}};
  const inputs = inputsOf(backend, call);
  console.log(
    `${adapter}; B 1, H ${H}, N ${N}, D ${D}, ${layout}, precision ${precision}: ${gib(inputs[0].bytes)} GiB a tensor, ` +
      `bindings of up to ${bindingLimit(backend.device)} bytes`,
  );
  const rows: Row[] = [];
  for (const name of options.masks) rows.push(await measure(backend, call, inputs, name, options));
  console.log(table(COLUMNS, rows));
  inputs.forEach((input) => input.release());
  const wrong = rows.filter(({errors}) => Math.max(...Object.values(errors)) > ALLOWED[precision]);
  if (wrong.length > 0) {
    throw new Error(
      `bench: errors must be at most ${ALLOWED[precision]}, and are not with ${wrong.map(({mask}) => mask).join(', ')}.`,
    );
  }
}

try {
  await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
