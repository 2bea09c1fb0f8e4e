/** @file The tfjs WebGPU backend on a device with every feature and limit that this library's fast kernels can use. */
import * as tf from '@tensorflow/tfjs-core';
import type {WebGPUBackend} from '@tensorflow/tfjs-backend-webgpu';
import type {WebGPUBackend as WatchedBackend} from '../run/tfjs_backend.js';
import {watchBackend} from '../run/device_errors.js';
import {reuseUploads} from './reuse/reuse.js';
import {announceNext, askLoss, deviceOf, lossOf} from './loss.js';
import {FULL, type Kind, type Made, STOCK, gpu, makeDevice} from './make_device.js';

/** tfjs's own priority of its WebGPU backend. */
const PRIORITY = 3;

/** Options of {@link createWebGPUBackend}. */
export interface CreateWebGPUBackendOptions {
  /**
   * Name to register the backend under. Default `'webgpu'`. Another name gets its own copies of the `webgpu` kernels.
   */
  name?: string;
  /** Whether to make the backend tfjs's current one. Default true. */
  setBackend?: boolean;
  /** Which GPU to use if there are two. Default `'high-performance'`. */
  powerPreference?: GPUPowerPreference;
  /** Your own adapter to request the device from. */
  adapter?: GPUAdapter;
  /** Your own device, used as it is: nothing is requested then. */
  device?: GPUDevice;
}

/** The members of tfjs's WebGPU backend that this library's users need. Its whole class is in an optional package. */
export interface WebGPUKernelBackend extends tf.KernelBackend {
  /** The device that the backend runs on. */
  readonly device: GPUDevice;
}

/** The class of tfjs's WebGPU backend; importing its package also registers its kernels. */
async function backendClass(): Promise<typeof WebGPUBackend> {
  try {
    // In a try so that bundlers of pages without the package warn instead of failing.
    const module = await import('@tensorflow/tfjs-backend-webgpu');
    return module.WebGPUBackend;
  } catch (cause) {
    throw new Error(
      'tfjs-flashmask: @tensorflow/tfjs-backend-webgpu cannot be loaded. Run `npm install ' +
        '@tensorflow/tfjs-backend-webgpu@4.22.0`, or load its script before this library.',
      {cause},
    );
  }
}

function checkFree(name: string): void {
  // A name with only a factory or with a lost device may be replaced. A backend in use holds the user's tensors, and
  // removing it would dispose them.
  const device = deviceOf(name);
  if (name in tf.engine().registry && (!device || lossOf(device) === null)) {
    throw new Error(
      `createWebGPUBackend: the name must be free, got '${name}', whose backend is already in use. Call ` +
        `createWebGPUBackend() before the first tensor, or pass {name: 'webgpu-fast'}.`,
    );
  }
}

function copyKernels(name: string): void {
  if (name !== 'webgpu' && tf.getKernelsForBackend(name).length === 0) {
    tf.copyRegisteredKernels('webgpu', name);
  }
}

/** Makes a device after one was lost. The caller's own adapter and device cannot be used again. */
async function makeAnother(name: string, kind: Kind, options: CreateWebGPUBackendOptions, lost: string): Promise<Made> {
  try {
    return await makeDevice(kind, {...options, adapter: undefined, device: undefined});
  } catch (error) {
    // tfjs would at most log the error, and switch to the next best backend.
    const reason = (error as Error).message.replace(/\.$/, '');
    announceNext(name, `its device was lost (${lost}), and there is no other: ${reason}`);
    throw error;
  }
}

/**
 * The factory of a backend. tfjs calls it again after `tf.engine().reset()`, which has disposed the backend and
 * destroyed its buffers. The new backend is on the same device, or on `another` if that device was lost.
 */
function factoryOn(
  first: Made,
  Backend: typeof WebGPUBackend,
  another: (lost: string) => Promise<Made>,
): () => WebGPUBackend | Promise<WebGPUBackend> {
  let made = first;
  let backend: WebGPUBackend;
  const start = (on: Made): WebGPUBackend => {
    made = on;
    backend = new Backend(on.device, on.info);
    watchBackend(backend as unknown as WatchedBackend);
    reuseUploads(backend as unknown as WatchedBackend);
    return backend;
  };
  start(first);
  let renewal: Promise<WebGPUBackend> | undefined;
  return () => {
    if (!(backend as unknown as WatchedBackend).disposed) return backend;
    const lost = lossOf(made.device);
    if (lost === null) return start(made);
    // tfjs may call the factory again before this promise resolves.
    return (renewal ??= another(lost)
      .then(start)
      .finally(() => (renewal = undefined)));
  };
}

/**
 * Makes a device, then replaces the backend of that name by one on the device. The replacement is synchronous, so that
 * no other backend can take over in between.
 */
async function startBackend(kind: Kind, options: CreateWebGPUBackendOptions): Promise<WebGPUKernelBackend> {
  const {name = 'webgpu', setBackend = true} = options;
  gpu();
  const Backend = await backendClass();
  const before = deviceOf(name);
  if (before) await askLoss(before);
  checkFree(name);
  const made = await makeDevice(kind, options);
  try {
    // Another call may have taken the name while the device was being made.
    checkFree(name);
  } catch (error) {
    if (made.device !== options.device) made.device.destroy();
    throw error;
  }
  const factory = factoryOn(made, Backend, (lost) => makeAnother(name, kind, options, lost));
  if (tf.findBackendFactory(name) !== null) tf.removeBackend(name);
  tf.registerBackend(name, factory, PRIORITY);
  copyKernels(name);
  // From here on the name is in use, even if the backend does not become the current one.
  const backend = tf.findBackend(name) as unknown as WebGPUKernelBackend;
  if (setBackend) {
    await tf.setBackend(name);
  }
  return backend;
}

/**
 * Makes the backend `'webgpu'` current, with the device that @tensorflow/tfjs-backend-webgpu requests: the existing
 * backend if its device works, otherwise a new one.
 */
export async function startStockBackend(): Promise<WebGPUKernelBackend> {
  const device = deviceOf('webgpu');
  if (!device || (await askLoss(device)) !== null) return startBackend(STOCK, {});
  await tf.setBackend('webgpu');
  return tf.backend() as unknown as WebGPUKernelBackend;
}

/**
 * Makes the tfjs WebGPU backend on a device with float16, subgroups and, where the adapter offers them, subgroup
 * matrices, and with the adapter's own limits; registers it and makes it current. Stock tfjs requests none of these
 * features, so `precision: 'float16'` is possible only here. If the adapter offers something and then refuses it, the
 * device goes without it, with a warning. Subgroup matrices are an experimental feature: they are used only once a
 * trial has shown that they compute correctly.
 *
 * Call it before the first WebGPU tensor, in a page or, after `useWebGPU()`, in Node. Call it again after the device
 * was lost: that makes a new device, registers the backend on it in place of the lost one, and makes it current.
 * Tensors of the lost device must be made again. After `tf.engine().reset()` tfjs finds the backend by itself, on the
 * same device.
 *
 * @returns the backend; `backend.device` is its GPUDevice.
 * @throws without WebGPU, without an adapter or a device, without @tensorflow/tfjs-backend-webgpu, and when `name` is
 *   in use.
 *
 * @example
 * ```ts
 * await createWebGPUBackend();
 * const out = flashMaskAttention(q, k, v, masks.causal(1024), {precision: 'float16'});
 * ```
 */
export function createWebGPUBackend(options: CreateWebGPUBackendOptions = {}): Promise<WebGPUKernelBackend> {
  return startBackend(FULL, options);
}
