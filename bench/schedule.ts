/**
 * @file `npm run bench:schedule`: what tile map and schedule of a mask cost, next to the forward that they are made for.
 *
 *     npm run bench:schedule -- --n 8192 --heads 32 --d 64 --masks causalDocument,slidingWindow --layers 32
 *
 * A line a mask: milliseconds of the passes that fill the mask buffer for forward and dq, and the one for dkdv; of a forward without them;
 * and the share of the former in the first forward and in one a layer of all layers.
 */
import * as tf from '@tensorflow/tfjs';
import {Command} from 'commander';
import {flashMaskAttention, type FlashMask} from '../src/entries/index.js';
import type {FlashMaskAttentionAttrs} from '../src/call/kernel_names.js';
import {seededRandom} from '../src/mask/builders/random.js';
import {maskTable} from '../test/support/mask_table.js';
import {useWebGPU} from '../src/node_webgpu/use_webgpu.js';
import {plan, type Pass} from '../src/backends/webgpu/plan/vector_plan.js';
import type {Problem} from '../src/call/problem.js';
import {submitRecorded, type WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';
import {submitPasses, type PassRun} from '../src/backends/webgpu/run/dispatch.js';
import {variantOf} from '../src/backends/webgpu/forward.js';
import {tileMap} from '../src/backends/webgpu/passes/mask_buffer.js';
import {uniformsOf} from '../src/backends/webgpu/run/uniforms.js';
import {noise} from './inputs.js';
import {time} from './measure.js';
import {list, positive} from './settings.js';

interface Options {
  n: number;
  heads: number;
  d: number;
  masks: string[];
  layers: number;
}

const backendNow = (): WebGPUBackend => tf.backend() as unknown as WebGPUBackend;

/** @throws Error if the table has no such mask, or it has no intervals: then there is neither map nor schedule. */
function maskOf(name: string, N: number): FlashMask {
  const entry = maskTable.find((row) => row.name === name);
  const mask = entry?.build(N, seededRandom(1));
  if (!mask || mask.vectors === 0) throw new Error(`bench: --masks takes builders with intervals, got '${name}'.`);
  return mask;
}

/** The passes that fill the mask buffer of `pass`. */
function maskPasses(mask: FlashMask, bounds: tf.Tensor, {n: N, heads: H, d: D}: Options, pass: Pass): PassRun[] {
  const {causal} = mask;
  const p: Problem = {
    B: 1, H, Hkv: H, Sq: N, Sk: N, D, Dv: D, layout: 'bhsd', causal, maskB: 1, Hm: mask.heads, n: mask.vectors,
  }; // prettier-ignore
  const attrs: FlashMaskAttentionAttrs = {
    causal, scale: 1 / Math.sqrt(D), layout: 'bhsd', dropout: 0, seed: 0, precision: 'auto', deterministic: false,
  }; // prettier-ignore
  const blocks = plan(pass, variantOf(p, attrs), backendNow().device.limits);
  const passes: PassRun[] = [];
  tileMap(backendNow(), bounds, p, uniformsOf(p, attrs), passes, blocks);
  return passes;
}

/** Runs in a batch, so that waiting for its end costs nothing; and batches, of which the best counts. */
const RUNS = 50;
const BATCHES = 5;

/** Milliseconds of passes that may run again and again. */
async function timePasses(passes: PassRun[]): Promise<number> {
  const backend = backendNow();
  const batch = async (runs: number): Promise<number> => {
    const start = performance.now();
    submitPasses(backend, Array.from({length: runs}, () => passes).flat());
    await backend.queue.onSubmittedWorkDone();
    return (performance.now() - start) / runs;
  };
  submitRecorded(backend);
  await batch(1);
  let best = Infinity;
  for (let i = 0; i < BATCHES; i++) best = Math.min(best, await batch(RUNS));
  return best;
}

async function measure(name: string, inputs: tf.Tensor4D[], options: Options): Promise<string[]> {
  const mask = maskOf(name, options.n);
  const bounds = tf.tensor(Int32Array.from(mask.bounds!), [1, mask.heads, options.n, mask.vectors], 'int32');
  const [q, k, v] = inputs;
  // First, for an idle GPU needs half a second of work to clock up.
  const forward = await time(() => [flashMaskAttention(q, k, v, mask, {layout: 'bhsd'})], {seconds: 1});
  const queries = await timePasses(maskPasses(mask, bounds, options, 'forward'));
  const keys = await timePasses(maskPasses(mask, bounds, options, 'dkdv'));
  bounds.dispose();
  const first = queries / (queries + forward.ms);
  const amortised = queries / (queries + options.layers * forward.ms);
  const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;
  return [name, ...[queries, keys, forward.ms].map((ms) => ms.toFixed(3)), percent(first), percent(amortised)];
}

async function main(): Promise<void> {
  const options = new Command('bench:schedule')
    .option('--n <length>', 'sequence length', positive, 8192)
    .option('--heads <count>', 'heads', positive, 32)
    .option('--d <size>', 'head size', positive, 64)
    .option('--masks <names>', 'builders', list, ['slidingWindow', 'causalDocument', 'document', 'sharedQuestion'])
    .option('--layers <count>', 'layers that share the mask', positive, 32)
    .parse()
    .opts<Options>();
  await useWebGPU();
  const {n, heads, d, layers} = options;
  console.log(`N ${n}, H ${heads}, D ${d}`);
  const widths = [20, 16, 12, 12, 14, 14];
  const print = (cells: string[]): void => console.log(cells.map((cell, i) => cell.padStart(widths[i])).join(''));
  print(['mask', 'forward, dq ms', 'dkdv ms', 'forward ms', 'first call', `${layers} layers`]);
  const inputs = [1, 2, 3].map((seed) => noise(heads, n, d, seed));
  for (const name of options.masks) print(await measure(name, inputs, options));
  tf.dispose(inputs);
}

await main();
process.exit(0);
