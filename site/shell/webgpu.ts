/** @file The backends of the workers. */
import * as tf from '@tensorflow/tfjs';
import type {DeviceKind} from '../../bench/record.js';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {createWebGPUBackend} from '../../src/entries/webgpu.js';

/** Starts a backend in this worker. Returns a function that throws what the device reported and tfjs did not. */
export async function startBackend(backend: 'webgpu' | 'cpu', kind: DeviceKind): Promise<() => void> {
  if (backend === 'webgpu') await import('@tensorflow/tfjs-backend-webgpu');
  if (backend === 'webgpu' && kind === 'full') await createWebGPUBackend();
  else if (!(await tf.setBackend(backend))) throw new Error(`The backend ${backend} does not start in this browser.`);
  await tf.ready();
  if (backend === 'cpu') return () => undefined;
  // tfjs does not listen for errors. Without a listener, invalid shaders and commands silently give garbage.
  const errors: string[] = [];
  deviceOfBackend().addEventListener('uncapturederror', ({error}) => errors.push(error.message));
  return () => {
    const [first] = errors.splice(0);
    if (first !== undefined) throw new Error(first);
  };
}

export const deviceOfBackend = (): GPUDevice => (tf.backend() as unknown as WebGPUBackend).device;
