/** @file Starts the backend that a benchmark runs on and collects the errors that tfjs does not report. */
import {readFileSync, writeFileSync} from 'node:fs';
import {cpus} from 'node:os';
import * as tf from '@tensorflow/tfjs';
import {nvidiaSmi} from '../examples/finetune/nvidia_smi.js';
import {findAddon} from '../src/backends/tensorflow/load.js';
import type {WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';
import {useWebGPU} from '../src/node_webgpu/use_webgpu.js';
import {readOne, settle} from './clock.js';
import type {DeviceKind} from './record.js';

export const BACKENDS = ['webgpu', 'tensorflow', 'cpu', 'wasm'] as const;
export type Backend = (typeof BACKENDS)[number];

export interface Runtime {
  /** Name of the hardware. */
  device: string;
  gpu: boolean;
  /** Throws the device errors that raised no exception since the last call, and clears them. */
  check: () => void;
}

/** @throws Error if the backend does not start here. */
export async function startBackend(backend: Backend, kind: DeviceKind): Promise<Runtime> {
  if (backend === 'webgpu') return startWebGPU(kind);
  if (backend === 'tensorflow') return startTensorFlow();
  if (backend === 'wasm') await import('@tensorflow/tfjs-backend-wasm');
  if (!(await tf.setBackend(backend))) throw new Error(`bench: the tfjs backend '${backend}' does not start.`);
  return {device: backend, gpu: false, check: () => undefined};
}

async function startWebGPU(device: DeviceKind): Promise<Runtime> {
  const {adapter, software} = await useWebGPU({device});
  // tfjs does not listen for errors. Without a listener, invalid shaders and commands silently give garbage.
  const errors: string[] = [];
  webgpuDevice().addEventListener('uncapturederror', ({error}) => errors.push(error.message));
  const check = (): void => {
    const [first] = errors.splice(0);
    if (first !== undefined) throw new Error(first);
  };
  return {device: adapter, gpu: !software, check};
}

export const webgpuDevice = (): GPUDevice => (tf.backend() as unknown as WebGPUBackend).device;

async function startTensorFlow(): Promise<Runtime> {
  // Ask before TensorFlow takes the device's memory.
  const gpuName = nvidiaName();
  await import('@tensorflow/tfjs-node');
  await import('../src/entries/node.js');
  await tf.setBackend('tensorflow');
  await settle();
  const info = findAddon().addon?.info();
  if (!info) throw new Error('bench: the addon must be built. Run `node scripts/build_native.mjs`.');
  const gpu = (tf.backend() as unknown as {isUsingGpuDevice: boolean}).isUsingGpuDevice && gpuName !== null;
  const {instructionSet, threads} = info;
  const cpu = `${cpus()[0].model.trim()}, ${String(threads)} threads, ${instructionSet}`;
  return {device: gpu ? gpuName : cpu, gpu, check: () => undefined};
}

/** Upper limit for the errors of one measurement: the number of kernels that may fail before the first error shows. */
const FAILED_KERNELS = 10_000;

/**
 * Clears the device's errors. A read throws a pending error, so this reads until none is left for the next measurement.
 */
export async function forgetErrors({check}: Runtime): Promise<void> {
  for (let i = 0; i < FAILED_KERNELS; i++) {
    try {
      await readOne();
      check();
      return;
    } catch {
      // Read the next error.
    }
  }
}

/** The name of the first NVIDIA GPU, or null without one. */
export const nvidiaName = (): string | null => nvidiaSmi('name')[0] ?? null;

/** Bytes used on the first NVIDIA GPU, or null without one. */
export function nvidiaBytes(): number | null {
  const [mebibytes] = nvidiaSmi('memory.used');
  return mebibytes === undefined ? null : 2 ** 20 * Number(mebibytes);
}

/** One line of the process status, in bytes. */
function statusBytes(name: string): number {
  const line = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync('/proc/self/status', 'utf8'));
  return 1024 * Number(line?.[1]);
}

/**
 * Starts to measure the peak growth of this process: its memory on a GPU, else its resident memory (Linux only).
 * TensorFlow's own count misses what its ops allocate inside. The allocator must have no freed memory to reuse.
 */
export function startGrowth(gpu: boolean): () => number {
  if (gpu) {
    const before = nvidiaBytes() ?? NaN;
    return () => (nvidiaBytes() ?? NaN) - before;
  }
  const before = statusBytes('VmRSS');
  // The peak starts again from here.
  writeFileSync('/proc/self/clear_refs', '5');
  return () => statusBytes('VmHWM') - before;
}
