/**
 * @file Keeps measured tiles: in memory, and from one run of the program to the next in a file (Node, set up by
 * `useWebGPU`) or in the page's localStorage. Tiles are valid for one adapter, one set of device limits and one version
 * of this library. Storage errors never reach a call: a cache that cannot be read counts as empty, with one warning.
 */
import type {TunedTiles} from '../plan/tuned_tiles.js';
import {VERSION} from '../../../call/version.js';

/** Stores one text. Each method may throw. */
export interface TuningStorage {
  /** Null if there is none. */
  read(): string | null;
  write(text: string): void;
  clear(): void;
}

/** The stored text as an object: by device, the tiles of each pass. */
type Stored = Record<string, unknown>;

interface State {
  storage?: TuningStorage;
  /** Tiles by device. */
  tuned: Map<string, TunedTiles>;
  warned: boolean;
}

const STATE = Symbol.for('tfjs-flashmask.tuning');
const globals = globalThis as {[STATE]?: State};

/** Stored globally: in Node the module that knows the file and the one with the kernels may be copies of each other. */
const state: State = (globals[STATE] ??= {tuned: new Map<string, TunedTiles>(), warned: false});

const LOCAL_STORAGE_KEY = 'tfjs-flashmask.autotune';

const pageStorage: TuningStorage = {
  read: () => localStorage.getItem(LOCAL_STORAGE_KEY),
  write: (text) => localStorage.setItem(LOCAL_STORAGE_KEY, text),
  clear: () => localStorage.removeItem(LOCAL_STORAGE_KEY),
};

/** Sets the storage of tiles, and replaces the tiles in memory by those that it holds. */
export function setTuningStorage(storage: TuningStorage | undefined): void {
  state.storage = storage;
  state.tuned.forEach(fill);
}

function storageOf(): TuningStorage | undefined {
  if (state.storage) return state.storage;
  // Node's own localStorage warns or needs a flag.
  const inNode = typeof process !== 'undefined' && Boolean(process.versions?.node);
  return inNode || typeof localStorage === 'undefined' ? undefined : pageStorage;
}

/** The measured tiles of a device; the same map for every device of the same adapter with the same limits. */
export function tunedTilesOf(device: GPUDevice): TunedTiles {
  const name = nameOf(device);
  let tuned = state.tuned.get(name);
  if (!tuned) {
    state.tuned.set(name, (tuned = new Map<string, unknown>()));
    fill(tuned, name);
  }
  return tuned;
}

function fill(tuned: TunedTiles, device: string): void {
  const stored = readStored()[device];
  tuned.clear();
  if (isRecord(stored)) Object.entries(stored).forEach(([key, tiles]) => tuned.set(key, tiles));
}

/** Stores a device's tiles for later runs of the program. */
export function storeTunedTiles(device: GPUDevice): void {
  const stored = {...readStored(), [nameOf(device)]: Object.fromEntries(tunedTilesOf(device))};
  guarded((storage) => storage.write(JSON.stringify(stored)), 'written', undefined);
}

/**
 * Deletes all tiles that {@link autotune} has measured, for this run and later runs of the program. Tiles are then
 * chosen as before the first measurement.
 */
export function clearAutotuneCache(): void {
  state.tuned.forEach((tuned) => tuned.clear());
  guarded((storage) => storage.clear(), 'cleared', undefined);
}

function nameOf(device: GPUDevice): string {
  const {vendor, architecture, device: model, description} = (device.adapterInfo ?? {}) as Partial<GPUAdapterInfo>;
  const {maxComputeWorkgroupStorageSize: bytes, maxComputeInvocationsPerWorkgroup: threads} = device.limits;
  const adapter = [vendor, architecture, model, description].filter(Boolean).join(' ') || 'unknown adapter';
  return `${VERSION}, ${adapter}, ${bytes} bytes, ${threads} threads`;
}

function readStored(): Stored {
  return guarded(
    (storage) => {
      const text = storage.read();
      const stored: unknown = text === null ? {} : JSON.parse(text);
      if (!isRecord(stored)) throw new Error('it holds no object');
      return stored;
    },
    'read',
    {},
  );
}

const isRecord = (x: unknown): x is Record<string, unknown> => typeof x === 'object' && x !== null && !Array.isArray(x);

/**
 * The result of `use`, or `otherwise` if there is no storage or `use` fails. Only the first failure causes a warning.
 */
function guarded<T>(use: (storage: TuningStorage) => T, done: string, otherwise: T): T {
  try {
    // Even access to a page's localStorage may throw.
    const storage = storageOf();
    return storage ? use(storage) : otherwise;
  } catch (error) {
    if (!state.warned) {
      state.warned = true;
      const why = (error as Error).message;
      console.warn(
        `tfjs-flashmask: the autotune cache cannot be ${done} and counts as empty: ${why}. clearAutotuneCache() empties it.`,
      );
    }
    return otherwise;
  }
}
