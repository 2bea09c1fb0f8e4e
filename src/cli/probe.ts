/**
 * @file Runs a small attention on one tfjs backend and prints, as one line of JSON, which kernels ran. It is a separate
 * program, so that a crash of a driver or an addon ends only this process. Run it in the user's project: `node probe.js
 * BACKEND [FOLDER OF TFJS-NODE]`.
 */
import {createRequire} from 'node:module';
import {join} from 'node:path';
import type {WebGPUBackend} from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import {flashMaskAttention, masks} from '../entries/index.js';
import {createWebGPUBackend} from '../entries/webgpu.js';
import type {AddonInfo, TensorFlowBackend} from '../backends/tensorflow/load.js';
import {capabilitiesOf} from '../backends/webgpu/device/capabilities.js';
import {PROBE_MARK, type ProbeResult} from './probe_result.js';
import {allShaders} from '../backends/webgpu/wgsl/all_shaders.js';
import {featureLine, kernelLines} from './webgpu_kernels.js';

const COMPOSED = 'composed from tfjs ops, 128 x 128 tiles';
const SIZE = 40;
/** Name for the device with all features, next to tfjs's own device. */
const FULL_WEBGPU = 'webgpu-full';

const fromProject = createRequire(join(process.cwd(), 'x.js'));
const fromHere = createRequire(import.meta.url);

/** Loads the first of the packages that is installed, next to this package or in the project. */
function load(...names: string[]): void {
  const ways = names.flatMap((name) => [fromHere, fromProject].map((require) => ({name, require})));
  for (const {name, require} of ways) {
    let path: string;
    try {
      path = require.resolve(name);
    } catch {
      continue;
    }
    require(path);
    return;
  }
  throw new Error(`${names.join(' or ')} cannot be found`);
}

/**
 * All queries and keys are equal, so the output of a causal row is the mean of the values up to it: half the row's
 * number.
 */
async function checkAttention(): Promise<void> {
  const ones = tf.ones([1, SIZE, 1, 4]) as tf.Tensor4D;
  const values = tf.tile(tf.reshape(tf.range(0, SIZE), [1, SIZE, 1, 1]), [1, 1, 1, 4]) as tf.Tensor4D;
  const rows = await flashMaskAttention(ones, ones, values, masks.causal(SIZE)).data();
  const wrong = rows.findIndex((value, at) => !(Math.abs(value - Math.floor(at / 4) / 2) < 1e-2));
  if (wrong >= 0) {
    throw new Error(
      `attention gives ${rows[wrong]} for row ${Math.floor(wrong / 4)} in place of ${Math.floor(wrong / 4) / 2}`,
    );
  }
}

async function use(backend: string): Promise<void> {
  if (!(await tf.setBackend(backend))) {
    throw new Error(`tfjs cannot start its backend '${backend}'`);
  }
  await checkAttention();
}

async function probeCpu(): Promise<ProbeResult> {
  load('@tensorflow/tfjs-backend-cpu', '@tensorflow/tfjs');
  await use('cpu');
  return {kernel: 'own, in TypeScript: 32 x 32 tiles, float64, one thread', facts: []};
}

async function probeWasm(): Promise<ProbeResult> {
  load('@tensorflow/tfjs-backend-wasm');
  await use('wasm');
  return {kernel: COMPOSED, facts: []};
}

async function probeWebGPU(): Promise<ProbeResult> {
  const {useWebGPU} = await import('../entries/node_webgpu.js');
  const info = await useWebGPU({quiet: true});
  await use('webgpu');
  const stock = capabilitiesOf((tf.backend() as WebGPUBackend).device);
  const {device} = await createWebGPUBackend({name: FULL_WEBGPU});
  await checkAttention();
  const full = capabilitiesOf(device);
  const kind = info.software ? 'software: runs on the CPU' : `GPU, ${info.vendor}`;
  return {
    kernel: `own, in WGSL: ${kernelLines(stock).join('; ')}`,
    facts: [
      `on ${info.adapter} (${kind})`,
      `with createWebGPUBackend(): ${featureLine(full, device.features)}`,
      ...kernelLines(full).map((line) => `  ${line}`),
      `shaders: ${allShaders.map(({name}) => name).join(', ')}`,
    ],
  };
}

function nativeKernel(onGpu: boolean, {cuda, instructionSet, threads}: AddonInfo): string {
  return onGpu
    ? `own, in CUDA: built with CUDA ${cuda.runtime ?? ''} for ${cuda.archs.map((arch) => `sm_${arch}`).join(', ')}`
    : `own, in C++: ${instructionSet}, ${threads} ${threads === 1 ? 'thread' : 'threads'}`;
}

async function probeTensorFlow(folder: string): Promise<ProbeResult> {
  fromHere(folder);
  await import('../entries/node.js');
  const {findAddon, whyNotNative} = await import('../backends/tensorflow/load.js');
  await use('tensorflow');
  const backend = tf.backend() as unknown as TensorFlowBackend;
  const found = findAddon();
  const addon = found.addon ? {path: found.path, ...found.addon.info()} : undefined;
  const reason = whyNotNative(backend);
  return reason === null && addon
    ? {kernel: nativeKernel(backend.isUsingGpuDevice, addon), facts: [], addon}
    : {kernel: COMPOSED, facts: [], addon, notNative: reason ?? 'unknown'};
}

async function main([backend, folder]: string[]): Promise<void> {
  const probes: Record<string, () => Promise<ProbeResult>> = {
    cpu: probeCpu,
    wasm: probeWasm,
    webgpu: probeWebGPU,
    tensorflow: () => probeTensorFlow(folder),
  };
  console.log(PROBE_MARK + JSON.stringify(await probes[backend]()));
}

main(process.argv.slice(2)).catch((error: unknown) => {
  console.error(`Error: ${(error as Error).message}`);
  process.exitCode = 1;
});
