/**
 * @file `npm run bench:gpu`: flashMaskAttention in tfjs-node on a GPU, from float32 tensors, against dense masked attention of tfjs
 * ops in the same process.
 *
 *     npm run bench:gpu -- --lengths 4096 --masks causal --out bench/results/gpu.jsonl
 *     npm run bench:gpu -- --lengths 131072 --masks causal --no-dense --memory
 *
 * Dense attention runs up to --dense-up-to tokens. With --memory, peak memory is read from the device, one process a measurement.
 */
import {execFileSync} from 'node:child_process';
import {appendFileSync, mkdirSync} from 'node:fs';
import {dirname} from 'node:path';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {Command} from 'commander';
import {flashMaskAttention} from '../src/entries/index.js';
import {denseAttention, denseBias, difference, gradsOf, type Attention} from './dense.js';
import {type Setting, list, numbers} from './settings.js';
import {noise} from './inputs.js';
import {settle, time} from './measure.js';
import {nativeMasks} from './native_masks.js';
import {tableHeader, tableRow, type BenchRecord} from './report.js';

type Kind = 'flash' | 'dense';

interface Options {
  masks: string[];
  lengths: number[];
  heads: number;
  dims: number[];
  precision: 'auto' | 'float32' | 'float16' | 'bfloat16';
  deterministic?: boolean;
  dense: boolean;
  denseUpTo: number;
  memory?: boolean;
  seconds: number;
  machine?: string;
  out?: string;
  child?: Kind;
}

function readOptions(): Options {
  return new Command('bench:gpu')
    .option('--masks <names>', `of ${Object.keys(nativeMasks).join(', ')}`, list, Object.keys(nativeMasks))
    .option('--lengths <N,...>', 'sequence lengths', numbers, [4096])
    .option('--heads <H>', 'heads', Number, 32)
    .option('--dims <D,...>', 'head sizes', numbers, [128])
    .option('--precision <name>', 'auto, float32, float16 or bfloat16', 'auto')
    .option('--deterministic', 'bit-identical gradients')
    .option('--no-dense', 'leave dense attention out')
    .option('--dense-up-to <N>', 'the longest sequence that dense attention is timed on', Number, 4096)
    .option('--memory', 'also read the peak memory from the device')
    .option('--seconds <s>', 'seconds for each measurement', Number, 1)
    .option('--machine <name>', 'name of the device in the records, where nvidia-smi does not tell it')
    .option('--out <file>', 'append the records to it, as JSON lines')
    .option('--child <attention>', 'print the peak memory of one attention; used by --memory itself')
    .parse()
    .opts<Options>();
}

/** One value of the first GPU, as nvidia-smi tells it. */
function nvidiaSmi(query: string): string {
  const args = [`--query-gpu=${query}`, '--format=csv,noheader,nounits'];
  return execFileSync('nvidia-smi', args, {encoding: 'utf8'}).split('\n')[0].trim();
}

async function useTensorFlow(): Promise<void> {
  await import('@tensorflow/tfjs-node');
  await import('../src/entries/node.js');
  await tf.setBackend('tensorflow');
  await settle();
}

function attentionOf(kind: Kind, {mask}: Setting, {precision, deterministic}: Options): [Attention, () => void] {
  if (kind === 'flash') {
    const options = {layout: 'bhsd', precision, deterministic} as const;
    return [(q, k, v) => flashMaskAttention(q, k, v, mask, options), () => undefined];
  }
  const bias = denseBias(mask);
  return [denseAttention(bias), () => bias.dispose()];
}

/** Times one attention, forward and forward + backward. */
async function measure(kind: Kind, s: Setting, inputs: tf.Tensor4D[], options: Options): Promise<Partial<BenchRecord>> {
  const [attention, free] = attentionOf(kind, s, options);
  const [q, k, v, dOut] = inputs;
  const pairs = s.H * s.N * s.N * (1 - s.mask.sparsity().maskedPairs);
  const tflops = (flops: number, ms: number): number => (flops * s.D * pairs) / ms / 1e9;
  try {
    const forward = await time(() => [tf.tidy(() => attention(q, k, v))], options);
    const both = await time(() => gradsOf(attention)([q, k, v], dOut), options);
    const backwardMs = both.ms - forward.ms;
    return {
      compileMs: forward.firstMs - forward.ms,
      forwardMs: forward.ms,
      backwardMs,
      forwardTflops: tflops(4, forward.ms),
      backwardTflops: tflops(10, backwardMs),
    };
  } finally {
    free();
  }
}

/** As `measure`, with the reason in place of figures where the device cannot. */
async function attempt(kind: Kind, s: Setting, inputs: tf.Tensor4D[], options: Options): Promise<Partial<BenchRecord>> {
  try {
    return await measure(kind, s, inputs, options);
  } catch (error) {
    return {skipped: (error instanceof Error ? error.message : String(error)).split('\n')[0].slice(0, 120)};
  }
}

/** In a child process: the device's memory that one forward and backward took beyond their inputs. */
async function printPeak(kind: Kind, options: Options): Promise<void> {
  await useTensorFlow();
  const [N, H, D] = [options.lengths[0], options.heads, options.dims[0]];
  const s = {name: options.masks[0], mask: nativeMasks[options.masks[0]](N), N, H, D};
  const [attention] = attentionOf(kind, s, options);
  const [q, k, v, dOut] = [1, 2, 3, 4].map((seed) => noise(H, N, D, seed));
  // The context of a matrix multiplication takes memory of its own.
  tf.dispose(tf.matMul(tf.ones([64, 64]), tf.ones([64, 64])));
  await settle();
  const before = Number(nvidiaSmi('memory.used'));
  tf.dispose(gradsOf(attention)([q, k, v], dOut));
  await settle();
  console.log(`peak MiB: ${Number(nvidiaSmi('memory.used')) - before}`);
}

/** Peak bytes by `printPeak` in a process whose allocator takes from the device what it needs, or undefined where that fails. */
function peakBytes(kind: Kind, {name, N, H, D}: Setting, {precision}: Options): number | undefined {
  const args = ['--child', kind, '--masks', name, '--lengths', N, '--heads', H, '--dims', D, '--precision', precision];
  try {
    const env = {...process.env, TF_GPU_ALLOCATOR: 'cuda_malloc_async', TF_CPP_MIN_LOG_LEVEL: '3'};
    const script = [...process.execArgv, fileURLToPath(import.meta.url)];
    const text = execFileSync(process.execPath, [...script, ...args.map(String)], {encoding: 'utf8', env});
    return 2 ** 20 * Number(/peak MiB: (\d+)/.exec(text)?.[1]);
  } catch {
    return undefined;
  }
}

function settingsOf(options: Options): Setting[] {
  const H = options.heads;
  return options.dims.flatMap((D) =>
    options.lengths.flatMap((N) => options.masks.map((name) => ({name, mask: nativeMasks[name](N), N, H, D}))),
  );
}

function kindsOf({N}: Setting, {dense, denseUpTo}: Options): Kind[] {
  return dense && N <= denseUpTo ? ['dense', 'flash'] : ['flash'];
}

async function runSetting(s: Setting, device: string, options: Options, peaks: Map<string, number | undefined>) {
  const {name: mask, N, H, D} = s;
  const inputs = [1, 2, 3, 4].map((seed) => noise(H, N, D, seed));
  const records: Partial<Record<Kind, BenchRecord>> = {};
  for (const kind of kindsOf(s, options)) {
    const call = {backend: 'tensorflow', device, mask, N, H, D, sparsity: s.mask.sparsity().maskedPairs};
    const {precision} = options;
    const figures = await attempt(kind, s, inputs, options);
    records[kind] = {
      ...call,
      attention: kind,
      precision,
      ...figures,
      peakBytes: peaks.get(`${kind} ${mask} ${N} ${D}`),
    };
  }
  const {flash, dense} = records as {flash: BenchRecord; dense?: BenchRecord};
  if (dense && !dense.skipped && !flash.skipped) {
    const bias = denseBias(s.mask);
    flash.difference = await difference(s.mask, denseAttention(bias), inputs, {precision: options.precision});
    bias.dispose();
  }
  tf.dispose(inputs);
  for (const record of [dense, flash]) {
    if (!record) continue;
    console.log(tableRow(record, record === flash && dense && !dense.skipped ? dense : undefined));
    if (options.out) appendFileSync(options.out, `${JSON.stringify(record)}\n`);
  }
}

async function main(): Promise<void> {
  const options = readOptions();
  if (options.child) {
    await printPeak(options.child, options);
    return;
  }
  const device = options.machine ?? nvidiaSmi('name');
  const settings = settingsOf(options);
  // Before this process takes the device's memory.
  const peaks = new Map(
    options.memory
      ? settings.flatMap((s) =>
          kindsOf(s, options).map((kind) => [`${kind} ${s.name} ${s.N} ${s.D}`, peakBytes(kind, s, options)] as const),
        )
      : [],
  );
  await useTensorFlow();
  if (options.out) mkdirSync(dirname(options.out), {recursive: true});
  console.log(`tensorflow on ${device}; B 1, H ${options.heads}, float32 tensors, precision ${options.precision}`);
  console.log(tableHeader());
  for (const s of settings) await runSetting(s, device, options, peaks);
}

try {
  await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
