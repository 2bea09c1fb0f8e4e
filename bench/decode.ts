/**
 * @file `npm run bench:decode`: one query against long keys, as in decoding with a cache of keys and values, on WebGPU. Each line holds
 * flashMaskAttention against dense attention of tfjs ops in the same run.
 *
 *     npm run bench:decode -- --lengths 4096,131072 --heads 32 --key-heads 8,32 --dims 128
 *
 * Tokens a second are those of a single attention layer. K and V are read once at least: GB/s says how near the memory's speed that is.
 */
import * as tf from '@tensorflow/tfjs';
import {Command, Option} from 'commander';
import {flashMaskAttention} from '../src/entries/index.js';
import type {Precision} from '../src/call/kernel_names.js';
import {useWebGPU} from '../src/node_webgpu/use_webgpu.js';
import type {WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';
import type {Attention} from './dense.js';
import {noise} from './inputs.js';
import {time} from './measure.js';
import {numbers, positive} from './settings.js';

interface Options {
  device: 'stock' | 'full';
  precision: Precision;
  lengths: number[];
  heads: number;
  keyHeads: number[];
  dims: number;
  seconds: number;
}

type Inputs = [q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D];

/** Sizes of one line. */
interface Sizes {
  Sk: number;
  H: number;
  Hkv: number;
  D: number;
}

function readOptions(): Options {
  return new Command('bench:decode')
    .addOption(
      new Option('--device <kind>', "the WebGPU device: tfjs's own, or createWebGPUBackend()'s")
        .choices(['stock', 'full'])
        .default('stock'),
    )
    .addOption(
      new Option('--precision <name>', 'what the products of flashMaskAttention read')
        .choices(['auto', 'float32', 'float16'])
        .default('auto'),
    )
    .option('--lengths <Sk,...>', 'key lengths', numbers, [4096, 8192, 16384, 32768, 65536, 131072])
    .option('--heads <H>', 'query heads', positive, 32)
    .option('--key-heads <Hkv,...>', 'key and value heads', numbers, [8, 32])
    .option('--dims <D>', 'head size', positive, 128)
    .option('--seconds <s>', 'seconds for each measurement', Number, 0.3)
    .parse()
    .opts<Options>();
}

/** Dense attention of one query on `[1, H, 1, D]` and `[1, Hkv, Sk, D]`: the heads of a group are rows of one product, as is fastest. */
const denseDecode: Attention = (q, k, v) => {
  const [, H, , D] = q.shape;
  const Hkv = k.shape[1];
  const rows = tf.reshape(q, [1, Hkv, H / Hkv, D]);
  const weights = tf.softmax(tf.mul(tf.matMul(rows, k, false, true), 1 / Math.sqrt(D)));
  return tf.reshape(tf.matMul(weights, v), [1, H, 1, v.shape[3]]);
};

const bytesOfKeysAndValues = ({Sk, Hkv, D}: Sizes): number => 2 * 4 * Sk * Hkv * D;

/** Why a line cannot run: a tensor must fit one binding. */
function obstacle(sizes: Sizes): string | undefined {
  const {limits} = (tf.backend() as unknown as WebGPUBackend).device;
  const bytes = bytesOfKeysAndValues(sizes) / 2;
  if (bytes <= Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize)) return undefined;
  return `K takes ${bytes} bytes, a binding at most ${limits.maxStorageBufferBindingSize}`;
}

/** Largest difference of the two over all outputs. */
async function difference(flash: Attention, inputs: Inputs): Promise<number> {
  const worst = tf.tidy(() => tf.max(tf.abs(tf.sub(flash(...inputs), denseDecode(...inputs)))));
  const [value] = await worst.data();
  worst.dispose();
  return value;
}

const HEADER = [
  '|     Sk |  Hkv | flash µs | tokens/s |   GB/s | dense µs | tokens/s |   GB/s | ratio | difference |',
  '|-------:|-----:|---------:|---------:|-------:|---------:|---------:|-------:|------:|-----------:|',
].join('\n');

function cells(sizes: Sizes, ms: number): string[] {
  const gigabytes = bytesOfKeysAndValues(sizes) / 1e9;
  return [
    (1000 * ms).toFixed(0).padStart(8),
    (1000 / ms).toFixed(0).padStart(8),
    ((1000 * gigabytes) / ms).toFixed(0).padStart(6),
  ];
}

const line = ({Sk, Hkv}: Sizes, rest: string[]): string =>
  `| ${[String(Sk).padStart(6), String(Hkv).padStart(4), ...rest].join(' | ')} |`;

/** Keys and values of the sizes: the first rows of longer ones. */
async function measureLine(sizes: Sizes, keys: tf.Tensor4D[], {precision, seconds}: Options): Promise<string> {
  const {Sk, H, Hkv, D} = sizes;
  const [k, v] = keys.map((x) => tf.slice(x, [0, 0, 0, 0], [1, Hkv, Sk, D]));
  const inputs: Inputs = [noise(H, 1, D, 1), k, v];
  const flash: Attention = (q, k, v) => flashMaskAttention(q, k, v, null, {causal: true, layout: 'bhsd', precision});
  const milliseconds = async (attention: Attention): Promise<number> =>
    (await time(() => [tf.tidy(() => attention(...inputs))], {seconds})).ms;
  const flashMs = await milliseconds(flash);
  const denseMs = await milliseconds(denseDecode);
  const ratio = (denseMs / flashMs).toFixed(2).padStart(5);
  const error = (await difference(flash, inputs)).toExponential(1).padStart(10);
  tf.dispose(inputs);
  return line(sizes, [...cells(sizes, flashMs), ...cells(sizes, denseMs), ratio, error]);
}

/** A line for each length. Keys are drawn once, as many as the longest needs: the host draws a million numbers a second. */
async function measureKeyHeads(H: number, Hkv: number, options: Options): Promise<void> {
  if (H % Hkv !== 0) throw new Error(`bench: --heads must be a multiple of --key-heads, got ${H} and ${Hkv}.`);
  const sizes = options.lengths.map((Sk): Sizes => ({Sk, H, Hkv, D: options.dims}));
  const longest = Math.max(0, ...sizes.filter((one) => !obstacle(one)).map(({Sk}) => Sk));
  const keys = longest === 0 ? [] : [2, 3].map((seed) => noise(Hkv, longest, options.dims, seed));
  for (const one of sizes) {
    const reason = obstacle(one);
    console.log(reason ? line(one, [reason]) : await measureLine(one, keys, options));
  }
  tf.dispose(keys);
}

async function main(): Promise<void> {
  const options = readOptions();
  const {adapter} = await useWebGPU({device: options.device});
  const {heads: H, dims: D, precision} = options;
  console.log(`webgpu on ${adapter}; B 1, Sq 1, H ${H}, D ${D}, precision ${precision}\n${HEADER}`);
  for (const Hkv of options.keyHeads) await measureKeyHeads(H, Hkv, options);
}

try {
  await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
