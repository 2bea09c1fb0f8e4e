/**
 * @file `npm run bench:cpu`: flashMaskAttention in tfjs-node on the CPU against TensorFlow in the same process: dense masked attention
 * of tfjs ops, and the throughput of tf.matMul.
 *
 *     npm run bench:cpu -- --lengths 2048 --heads 8 --dims 64 --out bench/results/cpu.jsonl
 *     FLASHMASK_CPU=avx2 npm run bench:cpu -- --masks full --no-dense
 *     npm run bench:cpu -- --lengths 16384,32768,65536 --masks causalDocument --forward-only --no-dense
 *
 * Document masks have `--documents` equal documents. With --memory, a process of its own for each
 * attention tells by how much it grew at most (on Linux).
 */
import {execFileSync} from 'node:child_process';
import {appendFileSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {cpus} from 'node:os';
import {dirname} from 'node:path';
import {fileURLToPath} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {Command} from 'commander';
import {flashMaskAttention, masks, type FlashMask} from '../src/entries/index.js';
import {denseAttention, denseBias, difference, gradsOf, type Attention} from './dense.js';
import {type Setting, list, numbers} from './settings.js';
import {noise} from './inputs.js';
import {time, type TimeOptions} from './measure.js';
import {nativeMasks} from './native_masks.js';
import {tableHeader, tableRow, type BenchRecord} from './report.js';

type Kind = 'flash' | 'dense';

interface Options extends TimeOptions {
  masks: string[];
  lengths: number[];
  heads: number;
  dims: number[];
  documents: number;
  dense: boolean;
  forwardOnly?: boolean;
  memory?: boolean;
  child?: Kind;
  machine?: string;
  out?: string;
}

function readOptions(): Options {
  return new Command('bench:cpu')
    .option('--masks <names>', `of ${Object.keys(nativeMasks).join(', ')}`, list, [
      'full',
      'causal',
      'slidingWindow',
      'causalDocument',
      'document',
    ])
    .option('--lengths <N,...>', 'sequence lengths', numbers, [2048])
    .option('--heads <H>', 'heads', Number, 8)
    .option('--dims <D,...>', 'head sizes', numbers, [64])
    .option('--documents <count>', 'equal documents in document masks', Number, 8)
    .option('--no-dense', 'leave dense attention out')
    .option('--forward-only', 'leave the backward out')
    .option('--memory', 'also measure peak memory')
    .option('--child <attention>', 'print the peak memory of one attention; used by --memory itself')
    .option('--seconds <s>', 'seconds for each measurement', Number, 1)
    .option('--machine <name>', 'name of the machine in the records')
    .option('--out <file>', 'append the records to it, as JSON lines')
    .parse()
    .opts<Options>();
}

/** Sets the backend; returns what the kernels run on. */
async function useTensorFlow(): Promise<string> {
  await import('@tensorflow/tfjs-node');
  await import('../src/entries/node.js');
  const {findAddon} = await import('../src/backends/tensorflow/load.js');
  await tf.setBackend('tensorflow');
  const {addon} = findAddon();
  if (!addon) throw new Error('bench: the addon must be built. Run `node scripts/build_native.mjs`.');
  const {instructionSet, threads} = addon.info();
  return `${cpus()[0].model.trim()}, ${String(threads)} threads, ${instructionSet}`;
}

function maskOf(name: string, N: number, {documents}: Options): FlashMask {
  if (name === 'causalDocument' || name === 'document') {
    const endOf = (i: number): number => Math.floor((i * N) / documents);
    return masks[name](Array.from({length: documents}, (_, i) => endOf(i + 1) - endOf(i)));
  }
  if (!(name in nativeMasks)) throw new Error(`bench: no mask '${name}'. Use ${Object.keys(nativeMasks).join(', ')}.`);
  return nativeMasks[name](N);
}

/** One of the lines of the process's status, in bytes. */
function statusBytes(name: string): number {
  const line = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'));
  return 1024 * Number(line?.[1]);
}

function attentionOf(kind: Kind, {mask}: Setting): [Attention, () => void] {
  if (kind === 'flash') return [(q, k, v) => flashMaskAttention(q, k, v, mask, {layout: 'bhsd'}), () => undefined];
  const bias = denseBias(mask);
  return [denseAttention(bias), () => bias.dispose()];
}

/** In a child process, whose allocator has nothing to reuse: the most bytes that the process grew by in one step. */
function printPeak(kind: Kind, s: Setting, {forwardOnly}: Options): void {
  const [attention] = attentionOf(kind, s);
  const small = [1, 2, 3].map(() => tf.ones([1, 1, 8, 8]) as tf.Tensor4D);
  flashMaskAttention(small[0], small[1], small[2]); // Threads and tables that stay.
  const [q, k, v, dOut] = drawInputs(s);
  const before = statusBytes('VmRSS');
  writeFileSync('/proc/self/clear_refs', '5'); // The peak begins anew.
  if (forwardOnly) attention(q, k, v);
  else gradsOf(attention)([q, k, v], dOut);
  console.log(`peak bytes: ${String(statusBytes('VmHWM') - before)}`);
}

/** Peak bytes by `printPeak`: TensorFlow's own count leaves out what its ops use inside. */
function peakBytes(kind: Kind, {name, N, H, D}: Setting, options: Options): number | undefined {
  if (!options.memory || process.platform !== 'linux') return undefined;
  const call = ['--child', kind, '--masks', name, '--lengths', N, '--heads', H, '--dims', D];
  const rest = ['--documents', options.documents, ...(options.forwardOnly ? ['--forward-only'] : [])];
  const args = [...process.execArgv, fileURLToPath(import.meta.url), ...[...call, ...rest].map(String)];
  const env = {...process.env, TF_CPP_MIN_LOG_LEVEL: '3'};
  return Number(/peak bytes: (\d+)/.exec(execFileSync(process.execPath, args, {encoding: 'utf8', env}))?.[1]);
}

const drawInputs = ({H, N, D}: Setting): tf.Tensor4D[] => [1, 2, 3, 4].map((seed) => noise(H, N, D, seed));

/** tf.matMul's TFLOP/s: the best of the two products of attention and of a large square. */
async function matMulTflops({H, N, D}: Setting, options: TimeOptions): Promise<number> {
  const SQUARE = 2048;
  const draw = (...shape: number[]): tf.Tensor => tf.randomNormal(shape);
  const rates: number[] = [];
  for (const [a, b, flops] of [
    [draw(H, N, D), draw(H, D, N), 2 * H * N * N * D],
    [draw(H, N, N), draw(H, N, D), 2 * H * N * N * D],
    [draw(SQUARE, SQUARE), draw(SQUARE, SQUARE), 2 * SQUARE ** 3],
  ] as const) {
    const {ms} = await time(() => [tf.matMul(a, b)], options);
    rates.push(flops / ms / 1e9);
    tf.dispose([a, b]);
  }
  return Math.max(...rates);
}

async function measure(kind: Kind, s: Setting, inputs: tf.Tensor4D[], options: Options): Promise<Partial<BenchRecord>> {
  const [attention, free] = attentionOf(kind, s);
  const [q, k, v, dOut] = inputs;
  const pairs = s.H * s.N * s.N * (1 - s.mask.sparsity().maskedPairs);
  const tflops = (flops: number, ms: number): number => (flops * s.D * pairs) / ms / 1e9;
  const forward = await time(() => [tf.tidy(() => attention(q, k, v))], options);
  const result = {
    forwardMs: forward.ms,
    forwardTflops: tflops(4, forward.ms),
    peakBytes: peakBytes(kind, s, options),
  };
  const both = options.forwardOnly ? undefined : await time(() => gradsOf(attention)([q, k, v], dOut), options);
  free();
  if (!both) return result;
  const backwardMs = both.ms - forward.ms;
  return {...result, backwardMs, backwardTflops: tflops(10, backwardMs)};
}

/** The scores of dense attention: they are there several times over. */
const denseBytes = ({H, N}: Setting): number => 4 * H * N * N;
const MOST_DENSE_BYTES = 2 ** 29;

async function runSetting(s: Setting, device: string, options: Options): Promise<BenchRecord[]> {
  const {name, mask, N, H, D} = s;
  const common = {backend: 'tensorflow', device, mask: name, N, H, D, sparsity: mask.sparsity().maskedPairs};
  const inputs = drawInputs(s);
  const record: BenchRecord = {...common, attention: 'flash', ...(await measure('flash', s, inputs, options))};
  const records = [record];
  if (options.dense && denseBytes(s) <= MOST_DENSE_BYTES) {
    records.unshift({...common, attention: 'dense', ...(await measure('dense', s, inputs, options))});
    const [dense, free] = attentionOf('dense', s);
    record.difference = await difference(mask, dense, inputs);
    free();
    record.matMulTflops = await matMulTflops(s, options);
  }
  tf.dispose(inputs);
  return records;
}

/** How the kernels' throughput compares with tf.matMul's. */
function againstMatMul({matMulTflops: matMul, forwardTflops, backwardTflops}: BenchRecord): string {
  if (matMul === undefined) return '';
  const share = (tflops = NaN): string => `${((100 * tflops) / matMul).toFixed(0)}%`;
  return `; forward ${share(forwardTflops)}, backward ${share(backwardTflops)} of tf.matMul's ${matMul.toFixed(3)} TF/s`;
}

async function main(): Promise<void> {
  const options = readOptions();
  const device = await useTensorFlow();
  if (options.out) mkdirSync(dirname(options.out), {recursive: true});
  console.log(`tensorflow on ${device}; B 1, H ${String(options.heads)}, float32\n${tableHeader()}`);
  const H = options.heads;
  for (const D of options.dims) {
    for (const N of options.lengths) {
      for (const name of options.masks) {
        const s = {name, mask: maskOf(name, N, options), N, H, D};
        if (options.child) {
          printPeak(options.child, s, options);
          return;
        }
        const records = await runSetting(s, options.machine ?? device, options);
        for (const record of records) {
          const dense = record.attention === 'flash' && records.length > 1 ? records[0] : undefined;
          console.log(tableRow(record, dense) + againstMatMul(record));
          if (options.out) appendFileSync(options.out, `${JSON.stringify(record)}\n`);
        }
      }
    }
  }
}

try {
  await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
