/**
 * @file Finds the Node addon (native/node/addon.cc), and checks whether its kernels can run on a tfjs-node backend. The
 * addon must be built, libtensorflow must be loaded, and on a GPU the CUDA kernels must match the driver and the
 * device.
 */
import {existsSync, readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {remember} from '../../call/remember.js';
import {VERSION} from '../../call/version.js';

/** The contents of the addon, and the hardware that it finds on this machine. */
export interface AddonInfo {
  /** Version of this package for which the addon was built. */
  version: string;
  /** The CUDA kernels of the addon. */
  cuda: {
    /** Whether the addon has any. */
    built: boolean;
    /** The CUDA version that built them. */
    runtime: string | null;
    /** Architectures that they were built for, for example `'90'` and `'90-ptx'`. */
    archs: string[];
  };
  /** CUDA version of the NVIDIA driver; null without one. */
  driver: string | null;
  /** NVIDIA GPUs that the driver lists. */
  devices: {
    /** Name given by the driver. */
    name: string;
    /** For example `'9.0'`. */
    computeCapability: string;
  }[];
  /** Instruction set that the CPU kernels use here. */
  instructionSet: 'avx512' | 'avx2' | 'neon' | 'generic';
  /** Threads of the CPU kernels if `setThreads` does not change it. */
  threads: number;
}

interface Addon {
  /** Registers the ops with the loaded libtensorflow. Throws if none is loaded, or one that is too old. */
  register(): void;
  info(): AddonInfo;
}

/** The members of tfjs-node's backend that this library needs. */
export interface TensorFlowBackend {
  isUsingGpuDevice: boolean;
}

/** The addon and its path, or the reason why there is none. */
export type FoundAddon = {addon: Addon; path: string} | {addon: null; reason: string};

/** GPUs before sm_80 have no bfloat16 and no asynchronous copies. */
const OLDEST_GPU = 8;

let found: FoundAddon | undefined;

/** Loads the addon, once. It needs neither TensorFlow nor a GPU. */
export function findAddon(): FoundAddon {
  found ??= loadAddon();
  return found;
}

/**
 * The package with the CPU kernels for this platform: npm installs it with this package if it exists for the platform.
 */
const ADDON_PACKAGE = `tfjs-flashmask-${process.platform}-${process.arch}`;

/** The package that also has the CUDA kernels. It is installed only on request. */
export const CUDA_ADDON_PACKAGE = `${ADDON_PACKAGE}-cuda`;

function loadAddon(): FoundAddon {
  const require = createRequire(import.meta.url);
  let reason: string | undefined;
  for (const path of addonFiles(require)) {
    try {
      const addon = require(path) as Addon;
      const {version} = addon.info();
      if (version === VERSION) return {addon, path};
      reason ??= `an addon of version ${version} for this package's ${VERSION} (${path})`;
    } catch (error) {
      reason ??= `an addon that does not load (${messageOf(error)})`;
    }
  }
  const none = `no addon for ${process.platform}-${process.arch}: ${ADDON_PACKAGE} is not installed and none was built`;
  return {addon: null, reason: reason ?? none};
}

/**
 * Candidate files, best first: the file that `FLASHMASK_ADDON` names; or those of the addon packages and the one built
 * here.
 */
function addonFiles(require: NodeJS.Require): string[] {
  const {FLASHMASK_ADDON} = process.env;
  if (FLASHMASK_ADDON) return [FLASHMASK_ADDON];
  const packed = [CUDA_ADDON_PACKAGE, ADDON_PACKAGE].map((name) => {
    try {
      return require.resolve(name);
    } catch {
      return null; // Not installed.
    }
  });
  const built = join(packageFolder(), 'build', 'Release', 'tfjs_flashmask.node');
  return [...packed, existsSync(built) ? built : null].filter((path) => path !== null);
}

/**
 * This package's folder: the nearest parent folder with its package.json, since the code is built to several places.
 */
function packageFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!isPackage(folder) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}

function isPackage(folder: string): boolean {
  const path = join(folder, 'package.json');
  return existsSync(path) && (JSON.parse(readFileSync(path, 'utf8')) as {name?: string}).name === 'tfjs-flashmask';
}

const reasons = new WeakMap<TensorFlowBackend, {reason: string | null}>();

/**
 * Registers the ops if they are not registered yet. Returns null if the native kernels run on this backend, else the
 * reason why not.
 */
export function whyNotNative(backend: TensorFlowBackend): string | null {
  return remember(reasons, backend, () => ({reason: tryToRegister(backend)})).reason;
}

function tryToRegister(backend: TensorFlowBackend): string | null {
  const result = findAddon();
  if (!result.addon) return result.reason;
  const reason = backend.isUsingGpuDevice ? whyNotOnGpu(result.addon.info()) : null;
  if (reason !== null) return reason;
  try {
    result.addon.register();
    return null;
  } catch (error) {
    return `an addon that TensorFlow does not take (${messageOf(error)})`;
  }
}

/** The reason why the CUDA kernels cannot run here, or null. */
export function whyNotOnGpu({cuda, driver, devices}: AddonInfo): string | null {
  if (!cuda.built) return `an addon without the CUDA kernels, which the package ${CUDA_ADDON_PACKAGE} has`;
  // A CUDA runtime runs on every driver of the same major version or a later one.
  if (parseInt(driver ?? '0') < parseInt(cuda.runtime!)) {
    return `an addon built with CUDA ${cuda.runtime} on a driver for CUDA ${driver ?? 'none'}`;
  }
  if (!devices.some(({computeCapability}) => parseFloat(computeCapability) >= OLDEST_GPU)) {
    const names = devices.map(({name, computeCapability}) => `${name} (${computeCapability})`);
    return `no GPU of compute capability ${OLDEST_GPU}.0 or newer but ${names.join(', ') || 'none'}`;
  }
  return null;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message.split('\n')[0] : String(error);
}
