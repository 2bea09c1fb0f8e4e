/** @file Gives Node the tfjs WebGPU backend: over the system's GPU where there is one, else over SwiftShader. */
import type {WebGPUBackend} from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import type {Dawn, FoundAdapter} from './node_webgpu/dawn.js';
import {findAdapter, loadDawn, nullAdapter} from './node_webgpu/dawn.js';
import {tuningFile} from './node_webgpu/tuning_file.js';
import {setTuningStorage} from './webgpu/tuning_cache.js';
import {createWebGPUBackend, registerStockBackend} from './webgpu_backend.js';

/** Float16 on NVIDIA and subgroup matrices stay hidden without these; a device still has to ask for them. */
const DEFAULT_DAWN_FLAGS = ['enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia'];

/** Options of {@link useWebGPU}. */
export interface UseWebGPUOptions {
  /** `'auto'` (default): a GPU if Dawn finds one, else SwiftShader. `true`: SwiftShader. `false`: a GPU or an error. */
  software?: boolean | 'auto';
  /** Flags for Dawn, such as `'enable-dawn-features=skip_validation'`. They replace the default ones. */
  dawnFlags?: string[];
  /** Dawn's null adapter: validates shaders and calls, executes nothing; every number read is meaningless. */
  nullBackend?: boolean;
  /** `'stock'` (default): the device that tfjs itself requests. `'full'`: that of {@link createWebGPUBackend}. */
  device?: 'stock' | 'full';
  /** Say nothing about the adapter. */
  quiet?: boolean;
  /** Where the line about the adapter goes; standard error unless told. */
  logger?: (line: string) => void;
}

/** What the backend runs on. */
export interface WebGPUInfo {
  /** The adapter's own description, or its device or architecture where it has none. */
  adapter: string;
  vendor: string;
  architecture: string;
  /** Whether a CPU does the work. */
  software: boolean;
  /** Features of the tfjs device. */
  features: string[];
  /** Limits of the tfjs device. */
  limits: Record<string, number>;
}

/** What one process set up; held globally, so that two copies of this module share one Dawn. */
interface Setup {
  key: string;
  info: Promise<WebGPUInfo>;
  /** Dawn frees its devices with this object, so it must outlive every tensor. */
  gpu?: GPU;
}

const SETUP = Symbol.for('tfjs-flashmask.useWebGPU');
const globals = globalThis as {[SETUP]?: Setup};

function checkPlatform(): void {
  if (typeof process === 'undefined' || !process.versions?.node) {
    throw new Error(
      'useWebGPU: must run in Node. In a page import @tensorflow/tfjs-backend-webgpu, or call createWebGPUBackend().',
    );
  }
}

/** Makes `navigator.gpu` and the GPU* constants what they are in a page. */
function installGlobals(dawn: Dawn, gpu: GPU): void {
  for (const [name, value] of Object.entries(dawn.globals)) {
    if (!(name in globalThis)) {
      Object.defineProperty(globalThis, name, {value, configurable: true, writable: true});
    }
  }
  if (typeof navigator === 'undefined') {
    // Node has its own since version 21; libraries that look for one expect its userAgent too.
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

async function startBackend(options: UseWebGPUOptions): Promise<GPUDevice> {
  if (options.device === 'full') {
    return (await createWebGPUBackend()).device;
  }
  await registerStockBackend();
  if (!(await tf.setBackend('webgpu'))) {
    throw new Error(
      "useWebGPU: tfjs could not start its 'webgpu' backend (its warning above says why). Try {software: true}.",
    );
  }
  return (tf.backend() as WebGPUBackend).device;
}

function limitsOf(device: GPUDevice): Record<string, number> {
  const limits = device.limits as unknown as Record<string, unknown>;
  const numbers: Record<string, number> = {};
  // They are getters of the prototype, so Object.entries sees none.
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

async function setUp(options: UseWebGPUOptions, setup: Setup): Promise<WebGPUInfo> {
  const found = await find(options);
  setup.gpu = found.gpu;
  setTuningStorage(tuningFile());
  const info = infoOf(found, await startBackend(options));
  if (!options.quiet) {
    (options.logger ?? console.error)(describe(info, options.nullBackend ?? false));
  }
  return info;
}

/**
 * Gives Node the tfjs `webgpu` backend over npm's `webgpu` (Dawn), and makes it current: on the system's GPU if Dawn
 * finds one, else on SwiftShader from npm's `@sparticuz/chromium`, which is unpacked once into the user's cache. One
 * line on standard error says which. `navigator.gpu` and the GPU constants exist afterwards, as in a page.
 *
 * Call it once, before the first WebGPU tensor; calls after it with the same options give the same answer.
 *
 * @throws outside Node, on platforms without a Dawn binary, when npm's `webgpu`, `@tensorflow/tfjs-backend-webgpu` or,
 * where needed, `@sparticuz/chromium` is not installed, when no adapter is found, and on a second call with other options.
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
  const before = globals[SETUP];
  if (before !== undefined) {
    if (before.key !== key) {
      throw new Error(
        `useWebGPU: a process has one WebGPU, got ${key} after ${before.key}. Use the same options, or another process.`,
      );
    }
    return before.info;
  }
  const setup = {key} as Setup;
  setup.info = setUp(options, setup);
  globals[SETUP] = setup;
  try {
    return await setup.info;
  } catch (error) {
    globals[SETUP] = undefined;
    throw error;
  }
}
