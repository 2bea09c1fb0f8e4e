/**
 * @file The devices that tests run on. `cpu`, `webgpu` and tfjs-node's `tensorflow` (on the CPU) have their own
 * kernels. `composed` is the form for all other backends, on tfjs's wasm backend. `FLASHMASK_DEVICES=cpu,webgpu` in the
 * environment runs only those two. Two more devices run only if that variable names them: `tensorflow-gpu`, the same
 * backend on a GPU, and `webgpu-full`, the device of createWebGPUBackend() with its float16 kernels, on a GPU with
 * those features.
 */
import {existsSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '@tensorflow/tfjs-backend-webgpu';
import type {Precision} from '../../src/call/kernel_names.js';
import {nativeInfo} from '../../src/entries/node.js';
import {registerWebGPULayers} from '../../src/backends/webgpu/layers/register.js';
import {type TensorFlowBackend, whyNotNative, whyNotOnGpu} from '../../src/backends/tensorflow/load.js';

export interface Device {
  name: 'cpu' | 'webgpu' | 'webgpu-full' | 'composed' | 'tensorflow' | 'tensorflow-gpu';
  /** Precisions in which the table of cases runs in addition to the default. */
  precisions?: readonly Precision[];
  /** Makes it the current tfjs backend. */
  setup(): Promise<void>;
  /** Precision of the operands of its products, if fewer bits than float32's 24: TF32 and float16 have 11. */
  bits?: number;
  /** The reason why its tests cannot run here. */
  skip?: string;
  /** Waits for all work; returns the errors since the last call that the device reported without an exception. */
  hiddenErrors(): Promise<string[]>;
}

const wanted = process.env.FLASHMASK_DEVICES?.split(',');

function withChoice(device: Device): Device {
  return wanted && !wanted.includes(device.name) ? {...device, skip: 'FLASHMASK_DEVICES leaves it out'} : device;
}

/** Factor by which a tolerance for float32 products must grow on this device. */
export function slackOf({bits = 24}: Device): number {
  return bits === 24 ? 1 : 2 ** (20 - bits);
}

const none = async () => [];

export const devices: readonly Device[] = [
  {name: 'cpu' as const, setup: () => use('cpu'), hiddenErrors: none},
  {name: 'composed' as const, setup: useWasm, hiddenErrors: none},
  {name: 'webgpu' as const, setup: () => setupWebGPU('stock'), hiddenErrors: webgpuErrors},
  {
    name: 'webgpu-full' as const,
    setup: () => setupWebGPU('full'),
    skip: wanted?.includes('webgpu-full') ? undefined : 'FLASHMASK_DEVICES=webgpu-full asks for it',
    precisions: ['float32', 'float16'] as const,
    hiddenErrors: webgpuErrors,
  },
  {name: 'tensorflow' as const, setup: () => setupTensorFlow(false), skip: whyNoTensorFlow(), hiddenErrors: none},
  {
    name: 'tensorflow-gpu' as const,
    setup: () => setupTensorFlow(true),
    skip: whyNoTensorFlow() ?? whyNoGpu(),
    bits: 11,
    precisions: ['float32', 'float16', 'bfloat16'] as const,
    hiddenErrors: none,
  },
].map(withChoice);

/** Devices that only some machines have. */
const onlyAsked: readonly Device['name'][] = ['tensorflow-gpu', 'webgpu-full'];

/** Whether a lane of `npm test` runs the tests of a device of this file: it sets the variable before each file. */
function isOfLane({name}: Device): boolean {
  const lane = process.env.FLASHMASK_LANE ?? 'all';
  return lane === 'all' || (lane === 'webgpu') === name.startsWith('webgpu');
}

/**
 * Defines the tests of every device, or of those of this lane. Tests of a device that cannot run are shown as skipped,
 * with the reason.
 */
export function onEachDevice(define: (device: Device) => void): void {
  for (const device of devices.filter(isOfLane)) {
    if (device.skip) {
      // A device that must be requested by name shows one skipped line, not hundreds.
      const all = onlyAsked.includes(device.name) ? () => it('all tests') : () => define(device);
      describe.skip(`on ${device.name} (${device.skip})`, all);
      continue;
    }
    describe(`on ${device.name}`, () => {
      before(() => device.setup());
      define(device);
    });
  }
}

/** Why tfjs-node or the addon cannot be used here. Loads tfjs-node only when needed, because that takes a second. */
function whyNoTensorFlow(): string | undefined {
  const info = nativeInfo();
  if (info.path === null) return `${info.reason}: npm run build:native`;
  try {
    const folder = dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-node/package.json'));
    const binding = join(folder, 'lib', 'napi-v8', 'tfjs_binding.node');
    return existsSync(binding) ? undefined : 'tfjs-node has no binding: npx tfjs-flashmask setup-node';
  } catch {
    return 'tfjs-node is not installed';
  }
}

function whyNoGpu(): string | undefined {
  const info = nativeInfo();
  if (!wanted?.includes('tensorflow-gpu')) return 'FLASHMASK_DEVICES=tensorflow-gpu asks for it';
  return info.path === null ? info.reason : (whyNotOnGpu(info) ?? undefined);
}

/** tfjs-node is either on the CPU or on a GPU for the whole process. */
async function setupTensorFlow(gpu: boolean): Promise<void> {
  if (!gpu) process.env.CUDA_VISIBLE_DEVICES = '-1';
  process.env.TF_CPP_MIN_LOG_LEVEL ??= '2';
  await import('@tensorflow/tfjs-node');
  await use('tensorflow');
  const backend = tf.backend() as unknown as TensorFlowBackend;
  if (backend.isUsingGpuDevice !== gpu) {
    throw new Error(
      `tfjs-node must use the ${gpu ? 'GPU' : 'CPU'}, and does not: run each device in a process of its own.`,
    );
  }
  const reason = whyNotNative(backend);
  if (reason !== null) throw new Error(`The native kernels must run, but there is ${reason}.`);
}

async function use(backend: string): Promise<void> {
  if (!(await tf.setBackend(backend))) {
    throw new Error(`tf.setBackend('${backend}') failed.`);
  }
  await tf.ready();
}

export async function useWasm(): Promise<void> {
  await import('@tensorflow/tfjs-backend-wasm');
  await use('wasm');
}

const swallowed: string[] = [];
let watched: GPUDevice | null = null;
let softwareAdapter = false;

/** Whether tfjs now runs on WebGPU on the CPU. */
export const onSoftwareAdapter = (): boolean => softwareAdapter && tf.getBackend() === 'webgpu';

/** Dawn reports invalid shaders and commands only to `uncapturederror`: tfjs would return a tensor with any numbers. */
async function setupWebGPU(kind: 'stock' | 'full'): Promise<void> {
  const {useWebGPU} = await import('../../src/node_webgpu/use_webgpu.js');
  softwareAdapter = (await useWebGPU({device: kind})).software;
  registerWebGPULayers();
  await use('webgpu');
  // Otherwise dense attention on such small tensors would run on the CPU and not measure the error of this device.
  tf.env().set('WEBGPU_CPU_FORWARD', false);
  const {device} = tf.backend() as WebGPUBackend;
  if (watched !== device) {
    watched = device;
    device.addEventListener('uncapturederror', (event) => swallowed.push(event.error.message));
  }
}

async function webgpuErrors(): Promise<string[]> {
  await watched?.queue.onSubmittedWorkDone();
  return swallowed.splice(0);
}
