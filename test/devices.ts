/**
 * @file The devices that tests run on: `cpu` and `webgpu` with their own kernels, and `composed`, the form that any other backend
 * gets, on tfjs's wasm backend. `FLASHMASK_DEVICES=cpu,webgpu` in the environment runs only those.
 */
import * as tf from '@tensorflow/tfjs';
import type {WebGPUBackend} from '@tensorflow/tfjs-backend-webgpu';

export interface Device {
  name: 'cpu' | 'webgpu' | 'composed';
  /** Makes it the current tfjs backend. */
  setup(): Promise<void>;
  /** Why its tests do not run here. */
  skip?: string;
  /** What went wrong on the device without an exception since the last call, once all its work is done. */
  hiddenErrors(): Promise<string[]>;
}

const wanted = process.env.FLASHMASK_DEVICES?.split(',');

function withChoice(device: Device): Device {
  return wanted && !wanted.includes(device.name) ? {...device, skip: 'FLASHMASK_DEVICES leaves it out'} : device;
}

const none = async () => [];

export const devices: readonly Device[] = [
  {name: 'cpu' as const, setup: () => use('cpu'), hiddenErrors: none},
  {name: 'composed' as const, setup: setupWasm, hiddenErrors: none},
  {name: 'webgpu' as const, setup: setupWebGPU, hiddenErrors: webgpuErrors},
].map(withChoice);

/** Defines the tests of every device; those of a device that cannot run are shown as skipped, with the reason. */
export function onEachDevice(define: (device: Device) => void): void {
  for (const device of devices) {
    if (device.skip) {
      describe.skip(`on ${device.name} (${device.skip})`, () => define(device));
      continue;
    }
    describe(`on ${device.name}`, () => {
      before(() => device.setup());
      define(device);
    });
  }
}

async function use(backend: string): Promise<void> {
  if (!(await tf.setBackend(backend))) {
    throw new Error(`tf.setBackend('${backend}') failed.`);
  }
  await tf.ready();
}

async function setupWasm(): Promise<void> {
  await import('@tensorflow/tfjs-backend-wasm');
  await use('wasm');
}

const swallowed: string[] = [];
let watched: GPUDevice | null = null;

/** Dawn reports invalid shaders and commands only to `uncapturederror`: tfjs itself would return a tensor of anything. */
async function setupWebGPU(): Promise<void> {
  const {useWebGPU} = await import('../src/node-webgpu.js');
  await useWebGPU();
  await use('webgpu');
  // Dense attention on tensors this small would run on the CPU otherwise, and its error would say nothing of this device.
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
