/** @file `init`: makes the group of all processes that a launcher started. */
import {engine, ready} from '@tensorflow/tfjs-core';
import {describe, checkOptions, fail} from '../call/errors.js';
import {VERSION} from '../call/version.js';
import {type TensorFlowBackend, findAddon, whyNotNative} from '../backends/tensorflow/load.js';
import type {GroupAddon} from './addon.js';
import type {Endpoint} from './control/client.js';
import {ControlPlane, type ControlOptions} from './control/control_plane.js';
import {WORLD} from './control/hub.js';
import {type Place, findPlace} from './launcher.js';
import {mpiLibraries, ncclLibraries} from './libraries.js';
import {type Connection, NativeGroup, waitForFunctions} from './native_group.js';
import type {ProcessGroup} from './process_group.js';
import {
  type Rendezvous,
  chooseRendezvous,
  onOneHost,
  ownEndpoint,
  publish,
  randomToken,
  sharedToken,
} from './rendezvous.js';
import {soloGroup} from './solo_group.js';
import {requireOwnDevice} from './visible_devices.js';

/** Options of {@link init}. */
export interface InitOptions {
  /**
   * Seconds that processes wait for another one, when they join and in each call. Then all get an error that names the
   * one that is missing. Default: `FLASHMASK_TIMEOUT` in the environment, else 600.
   */
  timeout?: number;
  /**
   * Where the others find rank 0: `'host:port'`, or the absolute path of a file that all hosts see. Default:
   * `FLASHMASK_RENDEZVOUS` in the environment, else by MPI, else at `MASTER_ADDR` and the port after `MASTER_PORT`,
   * else on the first host of Slurm's step.
   */
  rendezvous?: string;
}

/** All processes that were started together. */
export interface World extends ProcessGroup {
  /** This process among those of its host. */
  readonly localRank: number;

  /**
   * A value of each process, in the order of ranks: small ones, which JSON can hold. All processes call it.
   *
   * @example
   * ```ts
   * const names = await world.exchange(os.hostname());
   * ```
   */
  exchange<T>(value: T): Promise<T[]>;

  /** Ends the group. All processes call it, after their last call; then they may end. */
  finalize(): Promise<void>;
}

const DEFAULT_TIMEOUT = 600;

let made: Promise<World> | null = null;

/**
 * The group of all processes that a launcher started: `mpiexec`, `torchrun` or `srun`, one process for each GPU. Every
 * process calls it once at its start; more calls give the same group. Without a launcher it is a group of one, on any
 * backend.
 *
 * tfjs-node must be loaded, and on a GPU after this entry, which gives each process its own GPU.
 *
 * ```js
 * import {init} from 'tfjs-flashmask/distributed'; // before tfjs-node
 * import * as tf from '@tensorflow/tfjs-node';
 *
 * const world = await init();
 * const total = world.allReduce(tf.scalar(world.rank));
 * await world.finalize();
 * ```
 *
 * @param options see {@link InitOptions}.
 * @throws Error if a process does not come in time, or if a library is missing.
 */
export async function init(options: InitOptions = {}): Promise<World> {
  const {timeout, rendezvous} = checkOptions('init', options, ['timeout', 'rendezvous']);
  const wishes = {timeout: secondsOf(timeout), rendezvous: rendezvous ?? process.env.FLASHMASK_RENDEZVOUS};
  if (made === null) {
    const place = findPlace(process.env);
    if (place === null || place.size === 1) return soloWorld;
    made = start(place, wishes);
  }
  try {
    return await made;
  } catch (error) {
    made = null;
    throw error;
  }
}

function secondsOf(option: number | undefined): number {
  const given: unknown = option ?? process.env.FLASHMASK_TIMEOUT ?? DEFAULT_TIMEOUT;
  const seconds = Number(given);
  if (seconds > 0 && seconds < 1e6) return seconds;
  return fail('init', 'timeout must be seconds, more than 0 and less than a million', describe(given), 'Leave it out.');
}

interface Wishes {
  timeout: number;
  rendezvous?: string;
}

async function start(place: Place, wishes: Wishes): Promise<World> {
  await ready();
  const {addon, path, gpu} = requireAddon();
  if (gpu) requireOwnDevice(place);
  const mpi = startMpi(place, addon, gpu);
  const control = await connect(
    place,
    wishes,
    {addon, mpi},
    {
      introduction: {
        rank: place.rank,
        size: place.size,
        token: mpi ? randomToken() : sharedToken(process.env),
        about: `tfjs-flashmask ${VERSION} on ${gpu ? 'GPUs' : 'CPUs'}`,
      },
      timeout: wishes.timeout * 1000,
      addon: path,
      blocks: !gpu,
    },
  );
  const connection = {addon, control, gpu};
  const ncclId = gpu ? await startNccl(place, connection) : '';
  if (gpu) failReads(addon);
  return new NativeWorld(connection, place, ncclId);
}

/** A process alone. */
const soloWorld: World = {
  ...soloGroup,
  localRank: 0,
  exchange: (value) => Promise.resolve([value]),
  finalize: () => Promise.resolve(),
};

/** The addon, with its ops registered. */
function requireAddon(): {addon: GroupAddon; path: string; gpu: boolean} {
  const {backend, backendName} = engine() as unknown as {backend: TensorFlowBackend; backendName: string};
  const rule = "several processes must run on tfjs-node's backend 'tensorflow'";
  if (backendName !== 'tensorflow') {
    fail('init', rule, describe(backendName), 'Import @tensorflow/tfjs-node, or tfjs-node-gpu, before the call.');
  }
  const reason = whyNotNative(backend);
  const found = findAddon();
  if (reason !== null || !found.addon) {
    return fail('init', `${rule} with the native addon`, reason ?? 'none', 'Run `npx tfjs-flashmask doctor`.');
  }
  return {addon: found.addon as unknown as GroupAddon, path: found.path, gpu: backend.isUsingGpuDevice};
}

/** Starts MPI if the launcher belongs to one. Without GPUs there must be one. */
function startMpi(place: Place, addon: GroupAddon, gpu: boolean): boolean {
  const {launcher, size, rank} = place;
  const libraries = mpiLibraries(launcher, process.env);
  const got =
    libraries.length === 0 ? `processes of ${launcher}` : whyNoMpi(() => addon.startMpi(libraries), size, rank);
  if (got === null || gpu) return got === null;
  const remedy = 'Start them by mpiexec; FLASHMASK_MPI in the environment names its library, if it is not found.';
  return fail('init', "on CPUs the processes must be connected by the launcher's MPI", got, remedy);
}

/** Starts MPI; returns why it does not connect the processes, or null. */
function whyNoMpi(start: () => ReturnType<GroupAddon['startMpi']>, size: number, rank: number): string | null {
  try {
    // UCX, which many libraries of MPI use, else rewrites mmap() in place while threads of Node are in it: they crash.
    process.env.UCX_MEM_EVENTS ??= 'no';
    const world = start();
    if (world.size === size && world.rank === rank) return null;
    return `${world.library}, for which this is process ${world.rank} of ${world.size}, and not ${rank} of ${size}`;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Joins the control plane. */
async function connect(
  place: Place,
  {rendezvous}: Wishes,
  {addon, mpi}: {addon: GroupAddon; mpi: boolean},
  options: ControlOptions,
): Promise<ControlPlane> {
  const chosen = chooseRendezvous(rendezvous, mpi, process.env);
  if (place.rank > 0) return ControlPlane.join(options, whereIs(chosen, addon, options.introduction.token));
  let remove = (): void => undefined;
  const port = chosen.kind === 'port' ? chosen.port : 0;
  const control = await ControlPlane.listen(options, {port, loopback: onOneHost(place)}, (actual) => {
    const endpoint = ownEndpoint(actual, options.introduction.token);
    if (chosen.kind === 'mpi') addon.mpiBroadcast(JSON.stringify(endpoint));
    if (chosen.kind === 'file') remove = publish(chosen.path, endpoint);
  });
  remove();
  return control;
}

function whereIs(chosen: Rendezvous, addon: GroupAddon, token: string): Endpoint | {file: string} {
  if (chosen.kind === 'mpi') return JSON.parse(addon.mpiBroadcast('')) as Endpoint;
  if (chosen.kind === 'file') return {file: chosen.path};
  return {addresses: [chosen.address], port: chosen.port, token};
}

/** Loads NCCL; returns what the processes find each other by. */
async function startNccl({rank}: Place, {addon, control}: Connection): Promise<string> {
  try {
    addon.loadNccl(ncclLibraries(addon.tensorFlowLibrary(), process.env));
  } catch (error) {
    const got = error instanceof Error ? error.message : String(error);
    const remedy = 'Run `npx tfjs-flashmask setup-node --gpu`, or name the library in FLASHMASK_NCCL.';
    fail('init', 'on GPUs the processes must be connected by NCCL', got, remedy);
  }
  const {values} = await control.exchange(WORLD, {kind: 'init'}, rank === 0 ? addon.newNcclId() : null);
  return values[0] as string;
}

/**
 * Lets reads of tensors throw after a failure. A call on a GPU is over for the host when it is queued; if it fails
 * later, its result is garbage.
 */
function failReads(addon: GroupAddon): void {
  const {backend} = engine() as unknown as {backend: {readSync(dataId: object): unknown}};
  const readSync = backend.readSync.bind(backend);
  backend.readSync = (dataId) => {
    const values = readSync(dataId);
    const failure = addon.failure();
    if (failure !== null) throw new Error(failure);
    return values;
  };
}

class NativeWorld extends NativeGroup implements World {
  readonly localRank: number;
  private end: Promise<void> | null = null;

  constructor(connection: Connection, {rank, size, localRank}: Place, ncclId: string) {
    super(connection, WORLD, rank, size, null, ncclId);
    this.localRank = localRank;
  }

  async exchange<T>(value: T): Promise<T[]> {
    return (await this.connection.control.exchange(WORLD, {kind: 'exchange'}, value)).values as T[];
  }

  finalize(): Promise<void> {
    return (this.end ??= this.endAll());
  }

  private async endAll(): Promise<void> {
    const {addon, control} = this.connection;
    if (addon.failure() === null) {
      waitForFunctions();
      await control.exchange(WORLD, {kind: 'finalize'}, null);
    }
    addon.endGroups();
    await control.close();
  }
}
