/** @file The tfjs WebGPU backend on a device with every feature and limit that this library's fast kernels can use. */
import * as tf from '@tensorflow/tfjs-core';
import type {WebGPUBackend} from '@tensorflow/tfjs-backend-webgpu';
import {type AdapterInfo, MATRIX_FEATURES, findMatrices} from './webgpu/matrix_probe.js';
import {type Wishes, requestDevice} from './webgpu/request_device.js';
import {allowMatrices} from './webgpu/traits.js';

/** What tfjs's own backend asks its device for, where the adapter offers it; what is best gone without first. */
const STOCK_WISHES: Wishes = {
  features: ['timestamp-query', 'bgra8unorm-storage'],
  limits: [
    'maxComputeInvocationsPerWorkgroup',
    'maxComputeWorkgroupSizeX',
    'maxComputeWorkgroupStorageSize',
    'maxComputeWorkgroupsPerDimension',
    'maxStorageBufferBindingSize',
    'maxBufferSize',
  ],
};

const FULL_WISHES: Wishes = {
  features: ['chromium-experimental-subgroup-matrix', 'subgroups', 'shader-f16', ...STOCK_WISHES.features],
  limits: [
    'maxComputeWorkgroupSizeY',
    'maxComputeWorkgroupSizeZ',
    'maxUniformBufferBindingSize',
    'maxStorageBuffersPerShaderStage',
    ...STOCK_WISHES.limits,
  ],
};

/** tfjs's own priority of its WebGPU backend. */
const PRIORITY = 3;

/** Options of {@link createWebGPUBackend}. */
export interface CreateWebGPUBackendOptions {
  /** Name to register under, `'webgpu'` unless told. Another name gets its own copies of the `webgpu` kernels. */
  name?: string;
  /** Make the backend tfjs's current one; true unless told. */
  setBackend?: boolean;
  /** Which GPU, where there are two; `'high-performance'` unless told. */
  powerPreference?: GPUPowerPreference;
  /** An adapter of yours to request the device from. */
  adapter?: GPUAdapter;
  /** A device of yours to use as it is; nothing is requested then. */
  device?: GPUDevice;
}

/** tfjs's WebGPU backend, as far as this library's users need it; its whole class is in an optional package. */
export interface WebGPUKernelBackend extends tf.KernelBackend {
  readonly device: GPUDevice;
}

/** The navigator's WebGPU, or an error that says how to get one. */
function gpu(): GPU {
  const found = typeof navigator === 'undefined' ? undefined : (navigator as {gpu?: GPU}).gpu;
  if (!found) {
    throw new Error(
      'tfjs-flashmask: navigator.gpu must exist, got none. Use a browser with WebGPU on an https or localhost ' +
        'page; in Node call `await useWebGPU()` of tfjs-flashmask/node-webgpu first.',
    );
  }
  return found;
}

async function requestAdapter(powerPreference: GPUPowerPreference): Promise<GPUAdapter> {
  const adapter = await gpu().requestAdapter({powerPreference});
  if (!adapter) {
    throw new Error(
      'tfjs-flashmask: a WebGPU adapter is needed, got none. Update the GPU driver, or allow WebGPU on this ' +
        'machine in the browser (chrome://gpu says what is off).',
    );
  }
  return adapter;
}

/** The device, with a warning of what its adapter refused. */
async function grantedDevice(adapter: GPUAdapter, wishes: Wishes): Promise<GPUDevice> {
  const {device, refused} = await requestDevice(adapter, wishes);
  if (refused.length > 0) {
    console.warn(
      `tfjs-flashmask: the WebGPU adapter offers ${refused.join(', ')} and gives a device only without: going on so.`,
    );
  }
  return device;
}

/** Lets the passes use the device's subgroup matrices if it has the feature and they compute right. */
async function tryMatrices(device: GPUDevice, info: AdapterInfo): Promise<void> {
  if (!MATRIX_FEATURES.every((name) => device.features.has(name))) {
    return;
  }
  const {matrix, reason} = await findMatrices(device, info);
  if (matrix) {
    allowMatrices(device, matrix);
  } else {
    console.warn(`tfjs-flashmask: no subgroup matrices on this WebGPU device: ${reason}.`);
  }
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

/**
 * Registers `'webgpu'` as @tensorflow/tfjs-backend-webgpu does, unless it is registered. That package does so itself
 * only if navigator.gpu exists when it is first imported, which in Node may be too early.
 */
export async function registerStockBackend(): Promise<void> {
  const Backend = await backendClass();
  if (tf.findBackendFactory('webgpu') === null) {
    const make = async () => {
      const adapter = await requestAdapter('high-performance');
      const device = await grantedDevice(adapter, STOCK_WISHES);
      return new Backend(device, adapter.info);
    };
    tf.registerBackend('webgpu', make, PRIORITY);
  }
}

function freeName(name: string): void {
  // Only a factory: nothing is lost. A backend in use holds the user's tensors, and removing it would dispose them.
  if (name in tf.engine().registry) {
    throw new Error(
      `createWebGPUBackend: the name must be free, got '${name}', whose backend is already in use. Call ` +
        `createWebGPUBackend() before the first tensor, or pass {name: 'webgpu-fast'}.`,
    );
  }
  if (tf.findBackendFactory(name) !== null) {
    tf.removeBackend(name);
  }
}

function copyKernels(name: string): void {
  if (name !== 'webgpu' && tf.getKernelsForBackend(name).length === 0) {
    tf.copyRegisteredKernels('webgpu', name);
  }
}

/**
 * Makes the tfjs WebGPU backend on a device with float16, subgroups and, where the adapter offers them, subgroup
 * matrices, and with the adapter's own limits; registers it and makes it current. Stock tfjs requests none of these
 * features, so `precision: 'float16'` is possible only here. What the adapter offers and then refuses, the device goes without,
 * with a warning; subgroup matrices, an experimental feature, are used only once a trial has shown that they compute right.
 *
 * Call it before the first WebGPU tensor, in a page or, after `useWebGPU()`, in Node.
 *
 * @returns the backend; `backend.device` is its GPUDevice.
 * @throws without WebGPU, without an adapter or a device, without @tensorflow/tfjs-backend-webgpu, and when `name` is in use.
 *
 * @example
 * ```ts
 * await createWebGPUBackend();
 * const out = flashMaskAttention(q, k, v, masks.causal(1024), {precision: 'float16'});
 * ```
 */
export async function createWebGPUBackend(options: CreateWebGPUBackendOptions = {}): Promise<WebGPUKernelBackend> {
  const {name = 'webgpu', setBackend = true, powerPreference = 'high-performance'} = options;
  if (options.device === undefined && options.adapter === undefined) {
    gpu();
  }
  const Backend = await backendClass();
  freeName(name);
  const adapter = options.device ? options.adapter : (options.adapter ?? (await requestAdapter(powerPreference)));
  const device = options.device ?? (await grantedDevice(adapter!, FULL_WISHES));
  const info = adapter?.info ?? (device as {adapterInfo?: GPUAdapterInfo}).adapterInfo;
  await tryMatrices(device, info ?? {});
  // Another call may have taken the name while the device was on its way.
  freeName(name);
  const backend = new Backend(device, info);
  tf.registerBackend(name, () => backend, PRIORITY);
  copyKernels(name);
  if (setBackend) {
    await tf.setBackend(name);
  }
  return backend;
}
