/** @file Starts a tfjs backend with the library's kernels and reports its silent errors. */
import {freemem} from 'node:os';
import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '@tensorflow/tfjs-backend-webgpu';
import {registerWebGPULayers} from '../../src/backends/webgpu/layers/register.js';
import {nativeInfo} from '../../src/entries/node.js';
import {useWebGPU} from '../../src/node_webgpu/use_webgpu.js';
import {nvidiaSmi} from './nvidia_smi.js';
import {useSoftwareMatMul} from './software_matmul.js';

export const BACKENDS = ['auto', 'tensorflow', 'webgpu', 'cpu'] as const;

export type BackendName = (typeof BACKENDS)[number];

export interface Device {
  /** Backend and hardware, for the user. */
  description: string;
  /** Whether a GPU does the computation. */
  gpu: boolean;
  /** Bytes that tensors can still take; null where the device does not tell. */
  freeBytes(): number | null;
  /** Throws the device errors that raised no exception since the last call. */
  check(): Promise<void>;
  /** Restores the former backend. The caller must not need tensors of this one any more. */
  close(): Promise<void>;
}

/** A current backend, and how to leave it. */
type Started = Omit<Device, 'close'> & {leave?: () => void};

/** Makes a backend current. `auto` takes tfjs-node where it is set up, else WebGPU. */
export async function startDevice(name: BackendName): Promise<Device> {
  const before: string | undefined = tf.getBackend();
  const {leave, ...device} = await start(name);
  const close = async (): Promise<void> => {
    leave?.();
    if (before !== undefined) await tf.setBackend(before);
  };
  return {...device, close};
}

async function start(name: BackendName): Promise<Started> {
  switch (name) {
    case 'auto':
    case 'tensorflow': {
      const device = await startTensorFlow();
      if (typeof device !== 'string') return device;
      if (name === 'auto') return startWebGPU();
      throw new Error(`--backend tensorflow: ${device}. Run: npx tfjs-flashmask doctor`);
    }
    case 'webgpu':
      return startWebGPU();
    case 'cpu':
      await tf.setBackend('cpu');
      return {description: 'cpu (JavaScript)', gpu: false, freeBytes: freeOfHost, check: async () => {}};
  }
}

/** Part of a GPU's free memory that tensors get. CUDA and its libraries need some. */
const GPU_SHARE = 0.9;

/** What this process may take, within the limits of its container if Node tells (from 20.13 on). */
const freeOfHost = (): number => (process as {availableMemory?: () => number}).availableMemory?.() ?? freemem();

/** The least of all NVIDIA GPUs, because which of them is taken is not known; null without one. */
function freeOfGpus(): number | null {
  const free = nvidiaSmi('memory.free').map((mebibytes) => GPU_SHARE * 2 ** 20 * Number(mebibytes));
  return free.length === 0 ? null : Math.min(...free);
}

/** A text says why tfjs-node does not start. */
async function startTensorFlow(): Promise<Started | string> {
  const problems: string[] = [];
  // TensorFlow takes most of a GPU's memory when it starts, and gives it to tensors.
  const free = freeOfGpus();
  const freeOfGpu = (): number | null => (free === null ? null : free - tf.memory().numBytes);
  for (const module of ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node']) {
    try {
      await import(module);
      if (!(await tf.setBackend('tensorflow'))) throw new Error('its backend does not start');
      const {isUsingGpuDevice: gpu} = tf.backend() as unknown as {isUsingGpuDevice: boolean};
      const description = `tensorflow on ${gpu ? 'a GPU' : 'the CPU'} (${kernels()})`;
      return {description, gpu, freeBytes: gpu ? freeOfGpu : freeOfHost, check: async () => {}};
    } catch (error) {
      const {message, code} = error as NodeJS.ErrnoException;
      if (code !== 'ERR_MODULE_NOT_FOUND') problems.push(`${module}: ${message.split('\n')[0]}`);
    }
  }
  return problems.join('; ') || 'there is no tfjs-node here';
}

function kernels(): string {
  const info = nativeInfo();
  return info.path === null ? `no native attention kernels: ${info.reason}` : 'native attention kernels';
}

async function startWebGPU(): Promise<Started> {
  registerWebGPULayers();
  const {adapter, software} = await useWebGPU({quiet: true});
  const restoreMatMul = software ? useSoftwareMatMul() : () => {};
  // tfjs never looks. If a tensor exceeds a limit of the device or a shader does not compile, results are arbitrary.
  const errors: string[] = [];
  const {device} = tf.backend() as WebGPUBackend;
  const onError = ({error}: GPUUncapturedErrorEvent): void => void errors.push(error.message);
  device.addEventListener('uncapturederror', onError);
  return {
    description: `webgpu on ${adapter}${software ? ' (software: runs on the CPU)' : ''}`,
    gpu: !software,
    freeBytes: () => (software ? freeOfHost() : /nvidia/i.test(adapter) ? freeOfGpus() : null),
    async check() {
      await device.queue.onSubmittedWorkDone();
      const [first] = errors.splice(0);
      if (first !== undefined) {
        throw new Error(`WebGPU refused a command: ${first} Try fewer --row-tokens or --backend tensorflow.`);
      }
    },
    leave() {
      restoreMatMul();
      device.removeEventListener('uncapturederror', onError);
    },
  };
}
