/** @file Loads Dawn, the WebGPU implementation in npm's `webgpu`, and finds an adapter: the GPU's or a software one. */
import {existsSync} from 'node:fs';
import {constants} from 'node:os';
import {dirname, join} from 'node:path';
import {pathToFileURL} from 'node:url';
import {type Dawn, tameEventLoop} from './event_loop.js';
import {findPackage} from './packages.js';
import {isSoftwareAdapter} from '../backends/webgpu/device/software_adapter.js';
import {activateSwiftShader, hasVulkanLoader, swiftShaderUnsupported} from './swiftshader.js';

/** A Dawn instance and its adapter. */
export interface FoundAdapter {
  gpu: GPU;
  adapter: GPUAdapter;
  software: boolean;
}

/**
 * SwiftShader zeroes workgroup memory by one store per word, which multiplies what it compiles: attention shaders take
 * four times as long. Without this feature Dawn writes a loop into the shader that zeroes the same memory.
 */
const SWIFTSHADER_FLAG = 'disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension';

/** The first Node version that exports abseil, of which Dawn has another version. */
const NODE_WITH_ABSEIL = 24;

/** Set on the process once Dawn is bound. Loading it again would restart Dawn while devices use it. */
const BOUND = Symbol.for('tfjs-flashmask.dawnIsBound');

/**
 * Binds Dawn to its own abseil. Node 24 exports this C++ library, and a Dawn bound to Node's version aborts. The first
 * loading of a library decides the binding.
 */
function bindToItself(binary: string): void {
  const needed = process.platform === 'linux' && parseInt(process.versions.node) >= NODE_WITH_ABSEIL;
  if (needed && !(BOUND in process)) {
    Object.defineProperty(process, BOUND, {value: true});
    const {RTLD_NOW, RTLD_DEEPBIND} = constants.dlopen;
    process.dlopen({exports: {}}, binary, RTLD_NOW | RTLD_DEEPBIND);
  }
}

/** Loads npm's `webgpu`. Throws, with the remedy, if it is not installed or has no binary for this platform. */
export async function loadDawn(): Promise<Dawn> {
  const main = findPackage('webgpu');
  if (main === null) {
    throw new Error('useWebGPU: the npm package webgpu (Dawn) is not installed. Run `npm install webgpu@0.6.2`.');
  }
  const arch = process.platform === 'darwin' ? 'universal' : process.arch;
  const platform = join(dirname(main), 'dist', `${process.platform}-${arch}`);
  // Since version 0.6 the binary is in a folder.
  const binary = [join(platform, 'dawn.node'), `${platform}.dawn.node`].find((path) => existsSync(path));
  if (binary === undefined) {
    throw new Error(
      `useWebGPU: npm's webgpu must have a binary for this platform, got ${process.platform}-${process.arch} without ` +
        `one. Use a platform that it supports (linux-x64, macOS, win32-x64), or another tfjs backend.`,
    );
  }
  try {
    bindToItself(binary);
    const dawn = (await import(pathToFileURL(main).href)) as Dawn;
    tameEventLoop(dawn);
    return dawn;
  } catch (cause) {
    throw new Error(
      `useWebGPU: npm's webgpu cannot be loaded: ${(cause as Error).message}. Dawn needs glibc 2.34 or newer on ` +
        `Linux, and macOS 12 or newer.`,
      {cause},
    );
  }
}

async function requestAdapter(gpu: GPU): Promise<FoundAdapter | null> {
  const adapter = await gpu.requestAdapter({powerPreference: 'high-performance'});
  return adapter && {gpu, adapter, software: isSoftwareAdapter(adapter.info)};
}

async function systemAdapter(dawn: Dawn, flags: string[]): Promise<FoundAdapter | null> {
  // Without a loader Dawn would only print a warning and find nothing.
  if (process.platform === 'linux' && !hasVulkanLoader()) {
    return null;
  }
  return requestAdapter(dawn.create(flags));
}

async function swiftShaderAdapter(dawn: Dawn, flags: string[]): Promise<FoundAdapter> {
  activateSwiftShader();
  const found = await requestAdapter(dawn.create(['backend=vulkan', SWIFTSHADER_FLAG, ...flags]));
  if (found === null) {
    throw new Error(
      'useWebGPU: Dawn found no adapter although SwiftShader was set up. Clear the cache folder ' +
        '($XDG_CACHE_HOME/tfjs-flashmask or ~/.cache/tfjs-flashmask) and try again.',
    );
  }
  return found;
}

/** Dawn's null adapter, which validates everything and executes nothing. */
export async function nullAdapter(dawn: Dawn, flags: string[]): Promise<FoundAdapter> {
  const found = await requestAdapter(dawn.create(['backend=null', ...flags]));
  if (found === null) {
    throw new Error("useWebGPU: this build of npm's webgpu has no null backend. Run `npm install webgpu@0.6.2`.");
  }
  return {...found, software: true};
}

/** Whether the user has chosen the Vulkan drivers. Then SwiftShader does not replace a software driver. */
function choseDriver(): boolean {
  return Boolean(process.env.VK_DRIVER_FILES || process.env.VK_ICD_FILENAMES);
}

/** Whether `software` allows the system's adapter instead of SwiftShader. */
function isAllowed(system: FoundAdapter, software: boolean | 'auto'): boolean {
  if (!system.software) {
    return software !== true;
  }
  return software !== false && (swiftShaderUnsupported() !== null || (software === 'auto' && choseDriver()));
}

/**
 * The adapter for `software`: false = a GPU or an error, true = the software adapter, 'auto' = a GPU if there is one.
 */
export async function findAdapter(dawn: Dawn, flags: string[], software: boolean | 'auto'): Promise<FoundAdapter> {
  const noSwiftShader = swiftShaderUnsupported();
  const system = software === true && noSwiftShader === null ? null : await systemAdapter(dawn, flags);
  if (system !== null && isAllowed(system, software)) {
    return system;
  }
  if (software === false) {
    const got = system === null ? 'no adapter' : `only the software adapter ${system.adapter.info.description}`;
    throw new Error(
      `useWebGPU: {software: false} needs a GPU, got ${got}. Install the GPU's Vulkan driver (and libvulkan1), or ` +
        `allow software: true.`,
    );
  }
  if (noSwiftShader !== null) {
    const kind = software === true ? 'software WebGPU adapter' : 'WebGPU adapter';
    throw new Error(
      `useWebGPU: an adapter is needed, got no ${kind} from the system, and ${noSwiftShader}. Install a GPU driver, or ` +
        'use another tfjs backend.',
    );
  }
  return swiftShaderAdapter(dawn, flags);
}
