/**
 * @file `npm run bench`: flashMaskAttention against dense masked attention of tfjs ops, in the same run, on any backend.
 *
 *     npm run bench -- --masks causal,causalDocument --lengths 512,1024 --heads 2 --dims 64 --documents 8
 *
 * Prints a table and writes records.jsonl, time.svg and memory.svg. On a machine with a GPU it runs on it through useWebGPU().
 */
import {mkdirSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {Command, Option} from 'commander';
import {flashMaskAttention, masks, type FlashMask} from '../src/entries/index.js';
import type {Precision} from '../src/call/kernel_names.js';
import {seededRandom} from '../src/mask/builders/random.js';
import {maskTable} from '../test/support/mask_table.js';
import {useWebGPU} from '../src/node_webgpu/use_webgpu.js';
import {denseAttention, denseBias, denseObstacle, difference, gradsOf, type Attention} from './dense.js';
import {type Setting, list, numbers, positive} from './settings.js';
import {noise} from './inputs.js';
import {peakBytesOf, time} from './measure.js';
import {memoryPlot, tableHeader, tableRow, timePlot, type BenchRecord} from './report.js';

interface Options {
  backend: string;
  device: 'stock' | 'full';
  precision: Precision;
  masks: string[];
  lengths: number[];
  heads: number;
  dims: number[];
  documents?: number;
  dense: boolean;
  forwardOnly?: boolean;
  seconds: number;
  machine?: string;
  out: string;
}

/** Tensors that all masks of a length share. */
interface Inputs {
  qkv: tf.Tensor4D[];
  dOut: tf.Tensor4D;
}

interface Case extends Inputs, Setting {}

function readOptions(): Options {
  return new Command('bench')
    .option('--backend <name>', 'webgpu, cpu or wasm', 'webgpu')
    .addOption(
      new Option('--device <kind>', "the WebGPU device: tfjs's own, or createWebGPUBackend()'s")
        .choices(['stock', 'full'])
        .default('stock'),
    )
    .addOption(
      new Option('--precision <name>', 'what the products of flashMaskAttention read')
        .choices(['auto', 'float32', 'float16', 'bfloat16'])
        .default('auto'),
    )
    .option('--masks <names>', `of ${maskTable.map(({name}) => name).join(', ')}`, list, [
      'full',
      'causal',
      'slidingWindow',
      'causalDocument',
    ])
    .option('--lengths <N,...>', 'sequence lengths', numbers, [512, 1024])
    .option('--heads <H>', 'heads', positive, 2)
    .option('--dims <D,...>', 'head sizes', numbers, [64])
    .option('--documents <count>', 'equal documents in document masks, instead of drawn ones', positive)
    .option('--no-dense', 'leave dense attention out')
    .option('--forward-only', 'leave the backward out')
    .option('--seconds <s>', 'seconds for each measurement', Number, 1)
    .option('--machine <name>', 'name of the device in the records, where the adapter does not tell it')
    .option('--out <folder>', 'where records.jsonl, time.svg and memory.svg go', join('bench', 'results'))
    .parse()
    .opts<Options>();
}

/** Sets the backend; returns the name of what it runs on. */
async function useBackend({backend: name, device}: Options): Promise<string> {
  if (name === 'webgpu') return (await useWebGPU({device})).adapter;
  if (name === 'wasm') await import('@tensorflow/tfjs-backend-wasm');
  if (!(await tf.setBackend(name))) throw new Error(`bench: no tfjs backend '${name}'. Use webgpu, cpu or wasm.`);
  return name;
}

function buildMask(name: string, N: number, documents?: number): FlashMask {
  if (documents && (name === 'causalDocument' || name === 'document')) {
    const lengths = Array.from(
      {length: documents},
      (_, i) => Math.floor(((i + 1) * N) / documents) - Math.floor((i * N) / documents),
    );
    return masks[name](lengths);
  }
  const entry = maskTable.find((row) => row.name === name);
  if (!entry) throw new Error(`bench: no mask '${name}'. Use ${maskTable.map((row) => row.name).join(', ')}.`);
  return entry.build(N, seededRandom(1));
}

async function measure(c: Case, attention: Attention, options: Options): Promise<Partial<BenchRecord>> {
  const {qkv: inputs, dOut} = c;
  const pairs = c.H * c.N * c.N * (1 - c.mask.sparsity().maskedPairs);
  const run = (): tf.Tensor[] => [tf.tidy(() => attention(inputs[0], inputs[1], inputs[2]))];
  const forward = await time(run, options);
  const tflops = (flopsPerPair: number, ms: number): number => (flopsPerPair * c.D * pairs) / ms / 1e9;
  const result = {compileMs: forward.firstMs - forward.ms, forwardMs: forward.ms, forwardTflops: tflops(4, forward.ms)};
  if (options.forwardOnly) return {...result, peakBytes: await peakBytesOf(run)};
  const grads = gradsOf(attention);
  const both = await time(() => grads(inputs, dOut), options);
  const backwardMs = both.ms - forward.ms;
  return {
    ...result,
    backwardMs,
    backwardTflops: tflops(10, backwardMs),
    peakBytes: await peakBytesOf(() => grads(inputs, dOut)),
  };
}

async function runCase(
  c: Case,
  device: string,
  options: Options,
  emit: (r: BenchRecord, dense?: BenchRecord) => void,
): Promise<void> {
  const {mask, N, H, D} = c;
  const common = {backend: options.backend, device, mask: c.name, N, H, D, sparsity: mask.sparsity().maskedPairs};
  const flash: Attention = (q, k, v) =>
    flashMaskAttention(q, k, v, mask, {layout: 'bhsd', precision: options.precision});
  const record: BenchRecord = {
    ...common,
    ...(options.precision === 'auto' ? {} : {precision: options.precision}),
    attention: 'flash',
    ...(await measure(c, flash, options)),
  };
  const skipped = options.dense ? denseObstacle(c) : 'not asked for';
  let dense: BenchRecord = {...common, attention: 'dense', skipped};
  if (!skipped) {
    const bias = denseBias(mask);
    const attention = denseAttention(bias);
    dense = {...common, attention: 'dense', ...(await measure(c, attention, options))};
    record.difference = await difference(mask, attention, c.qkv);
    bias.dispose();
  }
  if (options.dense) emit(dense);
  emit(record, skipped ? undefined : dense);
}

async function main(): Promise<void> {
  const options = readOptions();
  const adapter = await useBackend(options);
  const device = options.machine ?? adapter;
  const records: BenchRecord[] = [];
  console.log(
    `${options.backend} on ${device}; B 1, H ${options.heads}, precision ${options.precision}\n${tableHeader()}`,
  );
  const emit = (record: BenchRecord, dense?: BenchRecord): void => {
    records.push(record);
    console.log(tableRow(record, dense));
  };
  const H = options.heads;
  for (const D of options.dims) {
    for (const N of options.lengths) {
      const [q, k, v, dOut] = [1, 2, 3, 4].map((seed) => noise(H, N, D, seed));
      for (const name of options.masks) {
        const mask = buildMask(name, N, options.documents);
        await runCase({mask, name, N, H, D, qkv: [q, k, v], dOut}, device, options, emit);
      }
      tf.dispose([q, k, v, dOut]);
    }
  }
  mkdirSync(options.out, {recursive: true});
  const write = (file: string, text: string): void => {
    writeFileSync(join(options.out, file), text);
  };
  write('records.jsonl', records.map((record) => JSON.stringify(record)).join('\n') + '\n');
  write('time.svg', timePlot(records));
  write('memory.svg', memoryPlot(records));
  console.log(`\nwrote records.jsonl, time.svg and memory.svg to ${options.out}`);
}

try {
  await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
