/**
 * @file Measures what an attention call costs the host on WebGPU, in microseconds of processor time. Dawn's null
 * adapter validates and records as on a GPU and computes nothing, so no GPU is needed.
 *
 *     node --import=tsx bench/host.ts [--lengths 512,2048] [--seconds 2] [--kinds stock,own,matrices]
 */
import * as tf from '@tensorflow/tfjs';
import {Command} from 'commander';
import {allowMatrices} from '../src/backends/webgpu/device/capabilities.js';
import {createWebGPUBackend} from '../src/backends/webgpu/device/create_backend.js';
import {loadMatrixCode} from '../src/backends/webgpu/device/matrix_code.js';
import {MATRIX_FEATURES} from '../src/backends/webgpu/device/matrix_probe.js';
import {submitRecorded, type WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';
import type {Precision} from '../src/call/kernel_names.js';
import {masks} from '../src/entries/webgpu.js';
import {loadDawn, nullAdapter} from '../src/node_webgpu/dawn.js';
import {AttentionKernels, flashAttention, gradsOf} from './attention.js';
import {repeat} from './clock.js';
import {list, numbers, positive} from './options.js';

/** Heads of SmolLM2-135M. */
const [H, D] = [9, 64];
const DOCUMENTS = 4;
/** Calls from one wait for the device to the next. */
const CALLS = 20;

const FLAGS = ['enable-dawn-features=allow_unsafe_apis'];

/** Makes `navigator.gpu` that of the null adapter. */
async function installNull(): Promise<GPU> {
  const dawn = await loadDawn();
  const {gpu} = await nullAdapter(dawn, FLAGS);
  Object.assign(globalThis, dawn.globals);
  Object.defineProperty(globalThis, 'navigator', {value: {gpu, userAgent: 'Node.js'}, configurable: true});
  return gpu;
}

/** The backends to measure: tfjs's own, this library's, and one that takes the null adapter to have matrices. */
const KINDS: Record<string, (gpu: GPU) => Promise<unknown>> = {
  stock: async () => {
    await import('@tensorflow/tfjs-backend-webgpu');
    return tf.setBackend('webgpu');
  },
  own: () => createWebGPUBackend({name: 'own'}),
  matrices: async (gpu) => {
    const adapter = (await gpu.requestAdapter())!;
    const device = await adapter.requestDevice({requiredFeatures: [...MATRIX_FEATURES] as GPUFeatureName[]});
    await createWebGPUBackend({name: 'matrices', device});
    loadMatrixCode();
    allowMatrices(device, {M: 8, N: 8, K: 8, lanes: 32});
  },
};

/** Microseconds of processor time of this process so far. Other programs do not count. */
function processorMicros(): number {
  const {user, system} = process.cpuUsage();
  return user + system;
}

/** Microseconds of a call, those that answer what it asked of the device among them: the best of many short batches. */
async function micros(run: () => tf.Tensor[], seconds: number): Promise<number> {
  const backend = tf.backend() as unknown as WebGPUBackend;
  const [best] = await repeat(
    async () => {
      const start = processorMicros();
      for (let i = 0; i < CALLS; i++) tf.dispose(run());
      submitRecorded(backend);
      await backend.queue.onSubmittedWorkDone();
      return processorMicros() - start;
    },
    {seconds},
  );
  return best / CALLS;
}

async function measure(N: number, precision: Precision, seconds: number): Promise<string> {
  const mask = masks.causalDocument(Array.from({length: DOCUMENTS}, () => N / DOCUMENTS));
  const inputs = Array.from({length: 4}, () => tf.zeros([1, H, N, D]) as tf.Tensor4D);
  const [q, k, v, dOut] = inputs;
  const attention = flashAttention(mask, {precision});
  const both = gradsOf(attention);
  const kernels = new AttentionKernels(inputs, mask, precision);
  const figures: [string, () => tf.Tensor[]][] = [
    ['forward', () => [attention(q, k, v)]],
    ['gradient', () => both([q, k, v], dOut)],
    ['forward kernel', () => kernels.forwardAll()],
    ['backward kernel', () => kernels.backward()],
  ];
  const texts: string[] = [];
  for (const [name, run] of figures) texts.push(`${name} ${(await micros(run, seconds)).toFixed(0)}`);
  kernels.dispose();
  tf.dispose(inputs);
  return texts.join(', ');
}

const {lengths, seconds, kinds} = new Command()
  .option('--lengths <N,...>', 'sequence lengths', numbers, [512, 2048, 8192])
  .option('--seconds <s>', 'seconds for each figure', positive, 1)
  .option('--kinds <names>', 'backends', list, Object.keys(KINDS))
  .parse()
  .opts<{lengths: number[]; seconds: number; kinds: string[]}>();

const gpu = await installNull();
for (const kind of kinds) {
  await KINDS[kind](gpu);
  const precision = kind === 'matrices' ? 'float32' : 'auto';
  for (const N of lengths) console.log(`${kind}, N ${N}, us: ${await measure(N, precision, seconds)}`);
}
process.exit();
