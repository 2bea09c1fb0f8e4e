/** @file Gives Node the tfjs WebGPU backend, on the system's GPU if there is one, else on SwiftShader. */
import * as tf from '@tensorflow/tfjs-core';
import type {FoundAdapter} from './dawn.js';
import type {Dawn} from './event_loop.js';
import {findAdapter, loadDawn, nullAdapter} from './dawn.js';
import {tuningFile} from './tuning_file.js';
import {askLoss, deviceOf} from '../backends/webgpu/device/loss.js';
import {setTuningStorage} from '../backends/webgpu/device/tuned_tiles_store.js';
import {createWebGPUBackend, startStockBackend} from '../backends/webgpu/device/create_backend.js';

/** Without these flags Dawn hides float16 on NVIDIA and subgroup matrices. A device still has to request them. */
const DEFAULT_DAWN_FLAGS = ['enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia'];

/** Options of {@link useWebGPU}. */
export interface UseWebGPUOptions {
  /** `'auto'` (default): a GPU if Dawn finds one, else SwiftShader. `true`: SwiftShader. `false`: a GPU or an error. */
  software?: boolean | 'auto';
  /** Flags for Dawn, for example `'enable-dawn-features=skip_validation'`. They replace the default flags. */
  dawnFlags?: string[];
  /** Use Dawn's null adapter, which validates shaders and calls and executes nothing: results are meaningless. */
  nullBackend?: boolean;
  /** `'stock'` (default): the device that tfjs itself requests. `'full'`: the device of {@link createWebGPUBackend}. */
  device?: 'stock' | 'full';
  /** Print no line about the adapter. */
  quiet?: boolean;
  /** Receives the line about the adapter. Default: printed to standard error. */
  logger?: (line: string) => void;
}

/** The adapter and the device that the backend runs on. */
export interface WebGPUInfo {
  /** The adapter's description, or its device or architecture if it has none. */
  adapter: string;
  /** Name given by the adapter; may be empty. */
  vendor: string;
  /** Name given by the adapter; may be empty. */
  architecture: string;
  /** Whether a CPU does the work. */
  software: boolean;
  /** Features of the tfjs device. */
  features: string[];
  /** Limits of the tfjs device. */
  limits: Record<string, number>;
}

/** The result of one call's set-up. */
interface Setup {
  key: string;
  info: WebGPUInfo;
  device: GPUDevice;
}

/** State of the process. It is global, so that two copies of this module share one Dawn. */
interface State {
  /** Settles when the calls so far are done: they run one after the other. */
  done: Promise<unknown>;
  setup?: Setup;
  /** Dawn frees its devices with these objects, so they must outlive every tensor. */
  instances: GPU[];
}

const STATE = Symbol.for('tfjs-flashmask.useWebGPU');
const globals = globalThis as {[STATE]?: State};
const state: State = (globals[STATE] ??= {done: Promise.resolve(), instances: []});

function checkPlatform(): void {
  if (typeof process === 'undefined' || !process.versions?.node) {
    throw new Error(
      'useWebGPU: must run in Node. In a page import @tensorflow/tfjs-backend-webgpu, or call createWebGPUBackend().',
    );
  }
}

/** Defines `navigator.gpu` and the GPU* constants, as in a page. */
function installGlobals(dawn: Dawn, gpu: GPU): void {
  for (const [name, value] of Object.entries(dawn.globals)) {
    if (!(name in globalThis)) {
      Object.defineProperty(globalThis, name, {value, configurable: true, writable: true});
    }
  }
  if (typeof navigator === 'undefined') {
    // Node has its own navigator since version 21. Libraries that look for one also expect a userAgent.
    const userAgent = `Node.js/${process.versions.node.split('.')[0]}`;
    Object.defineProperty(globalThis, 'navigator', {value: {userAgent}, configurable: true, writable: true});
  }
  Object.defineProperty(navigator, 'gpu', {value: gpu, configurable: true});
}

async function find(options: UseWebGPUOptions): Promise<FoundAdapter> {
  const dawn = await loadDawn();
  const flags = options.dawnFlags ?? DEFAULT_DAWN_FLAGS;
  const found = options.nullBackend
    ? await nullAdapter(dawn, flags)
    : await findAdapter(dawn, flags, options.software ?? 'auto');
  installGlobals(dawn, found.gpu);
  return found;
}

function limitsOf(device: GPUDevice): Record<string, number> {
  const limits = device.limits as unknown as Record<string, unknown>;
  const numbers: Record<string, number> = {};
  // Limits are getters of the prototype, so Object.entries does not list them.
  for (const name in limits) {
    const value = limits[name];
    if (typeof value === 'number') {
      numbers[name] = value;
    }
  }
  return numbers;
}

function infoOf(found: FoundAdapter, device: GPUDevice): WebGPUInfo {
  const {description, device: deviceName, vendor, architecture} = found.adapter.info;
  return {
    adapter: description || deviceName || architecture || 'unnamed adapter',
    vendor,
    architecture,
    software: found.software,
    features: [...device.features].sort(),
    limits: limitsOf(device),
  };
}

/** @example 'WebGPU on SwiftShader driver 5.0.0 (software: runs on the CPU)' */
function describe(info: WebGPUInfo, nullBackend: boolean): string {
  const kind = nullBackend
    ? 'null: executes nothing'
    : info.software
      ? 'software: runs on the CPU'
      : `GPU, ${info.vendor}`;
  return `tfjs-flashmask: WebGPU on ${info.adapter} (${kind})`;
}

async function setUp(options: UseWebGPUOptions, key: string): Promise<Setup> {
  const found = await find(options);
  state.instances.push(found.gpu);
  setTuningStorage(tuningFile());
  const {device} = await (options.device === 'full' ? createWebGPUBackend() : startStockBackend());
  const info = infoOf(found, device);
  if (!options.quiet) {
    (options.logger ?? console.error)(describe(info, options.nullBackend ?? false));
  }
  return {key, info, device};
}

/** Frees a device whose backend the user has removed. */
function destroyUnused({device}: Setup): void {
  const backends = Object.values(tf.engine().registry) as {device?: GPUDevice}[];
  if (!backends.some((backend) => backend.device === device)) device.destroy();
}

/** Whether tfjs has, or after tf.engine().reset() can make, the backend on a device that works. */
async function works({device}: Setup): Promise<boolean> {
  if (tf.findBackendFactory('webgpu') === null) return false;
  return (await askLoss(deviceOf('webgpu') ?? device)) === null;
}

/** One call, run after all earlier calls are done. */
async function useInTurn(options: UseWebGPUOptions, key: string): Promise<WebGPUInfo> {
  const before = state.setup;
  if (before !== undefined && (await works(before))) {
    if (before.key !== key) {
      throw new Error(
        `useWebGPU: a process has one WebGPU, got ${key} after ${before.key}. Use the same options, another process, or ` +
          "call tf.removeBackend('webgpu') first, with which all its tensors go.",
      );
    }
    await tf.setBackend('webgpu');
    return before.info;
  }
  state.setup = await setUp(options, key);
  if (before !== undefined) destroyUnused(before);
  return state.setup.info;
}

/**
 * Gives Node the tfjs `webgpu` backend over npm's `webgpu` (Dawn), and makes it current: on the system's GPU if Dawn
 * finds one, else on SwiftShader from npm's `@sparticuz/chromium`, which is unpacked once into the user's cache. One
 * line on standard error says which. `navigator.gpu` and the GPU constants exist afterwards, as in a page.
 *
 * Call it once, before the first WebGPU tensor; later calls with the same options return the same result. If the device
 * was lost or the backend removed, call it again, with any options: that makes a new device, and tensors have to be
 * created again. After `tf.engine().reset()` tfjs finds the backend by itself, on the same device.
 *
 * @throws outside Node; on platforms without a Dawn binary; if npm's `webgpu`, `@tensorflow/tfjs-backend-webgpu` or,
 *   where needed, `@sparticuz/chromium` is not installed; if no adapter is found; and for other options while the first
 *   device works.
 *
 * @example
 * ```ts
 * import * as tf from '@tensorflow/tfjs';
 * import {useWebGPU} from 'tfjs-flashmask/node-webgpu';
 *
 * const {adapter, software} = await useWebGPU();
 * tf.matMul(a, b); // runs on it
 * ```
 */
export async function useWebGPU(options: UseWebGPUOptions = {}): Promise<WebGPUInfo> {
  checkPlatform();
  const {software = 'auto', dawnFlags = DEFAULT_DAWN_FLAGS, nullBackend = false, device = 'stock'} = options;
  const key = JSON.stringify({software, dawnFlags, nullBackend, device});
  const call = state.done.then(() => useInTurn(options, key));
  state.done = call.catch(() => undefined);
  return call;
}
