/**
 * @file Provides TensorFlow's C++ libraries and headers, from its Python wheels, in the user's cache.
 *
 * A set of wheels is unpacked into one folder as in Python's site-packages, because TensorFlow looks for CUDA's
 * libraries next to itself (`$ORIGIN/../nvidia/cublas/lib`). The folder is made under another name, wheel by wheel, and
 * renamed when it is complete. After an interruption, the next process uses the wheels that are already finished.
 */
import {existsSync, readFileSync, readdirSync, renameSync, rmSync, statSync} from 'node:fs';
import {join} from 'node:path';
import * as z from 'zod/mini';
import {cacheFolder, makeCacheFolder, whyNotOwn} from '../node_webgpu/cache_folder.js';
import {makeFolder} from '../node_webgpu/make_folder.js';
import {filesBelow, readJson, sha256OfFile, writeJson} from './files.js';
import {withLock} from './lock.js';
import {TENSORFLOW_VERSION, pinnedCuda, pinnedHashes} from './pinned_wheels.js';
import {downloadWheel, findPip} from './pip.js';
import type {Platform} from './platform.js';
import {requireSpace} from './platform.js';
import type {Console} from './progress.js';
import {unzip, withZip} from './unzip.js';
import {UserError} from './user_error.js';

/** File names of the libraries in the wheel and in the cache. */
export const LIBRARIES = ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'];

/** Free bytes required on the disk: the unpacked files, plus twice the largest wheel, because pip keeps a copy. */
const SPACE = {cpu: 1.5e9, gpu: 7e9};

/** Written last: the sizes of the files, so that a damaged cache is noticed. */
const MANIFEST = 'manifest.json';
/** In an incomplete folder: the wheels that are already unpacked. */
const FINISHED = 'finished.json';

export interface TensorFlowChoice {
  version: string;
  gpu: boolean;
  platform: Platform;
}

export interface TensorFlow extends TensorFlowChoice {
  /** With `tensorflow/` and, for the GPU, `nvidia/` in it. */
  folder: string;
}

/** `wheels`: SHA-256 of the wheels by file name. `sizes`: bytes of the files by path. */
const MANIFEST_SCHEMA = z.object({
  version: z.string(),
  gpu: z.boolean(),
  wheels: z.record(z.string(), z.string()),
  sizes: z.record(z.string(), z.number()),
});
type Manifest = z.infer<typeof MANIFEST_SCHEMA>;

/** By requirement. */
const FINISHED_SCHEMA = z.record(z.string(), z.object({wheel: z.string(), sha256: z.string()}));
type Finished = z.infer<typeof FINISHED_SCHEMA>;

/** @example 'tensorflow-2.21.0-cpu-linux-x64' */
function folderName({version, gpu, platform}: TensorFlowChoice): string {
  return `tensorflow-${version}-${gpu ? 'gpu' : 'cpu'}-${platform.os}-${platform.arch}`;
}

export function tensorFlowFolder(choice: TensorFlowChoice): string {
  return join(cacheFolder(), folderName(choice));
}

/**
 * Whether all files of a folder exist with the right sizes. Their contents were verified when they were unpacked.
 *
 * @throws UserError if somebody else could have changed them since.
 */
export function isComplete(folder: string): boolean {
  const {data: manifest} = MANIFEST_SCHEMA.safeParse(readJson(join(folder, MANIFEST)));
  if (manifest === undefined) return false;
  const loaded = LIBRARIES.map((name) => join(folder, 'tensorflow', name));
  for (const path of [cacheFolder(), folder, join(folder, 'tensorflow'), ...loaded]) {
    const problem = whyNotOwn(path);
    if (problem !== null) throw new UserError(`setup-node: the cache must belong to its user alone, got ${problem}`);
  }
  return (
    LIBRARIES.every((name) => `tensorflow/${name}` in manifest.sizes) &&
    Object.entries(manifest.sizes).every(
      ([path, size]) => statSync(join(folder, path), {throwIfNoEntry: false})?.size === size,
    )
  );
}

/** Folders of the shared libraries, for the linker and for the binding. */
export function libraryFolders(folder: string): string[] {
  const nvidia = join(folder, 'nvidia');
  const parts = existsSync(nvidia) ? readdirSync(nvidia).map((part) => join(nvidia, part, 'lib')) : [];
  return [join(folder, 'tensorflow'), ...parts.filter((part) => existsSync(part)).sort()];
}

/**
 * The files of a wheel that are kept: libraries, the C API's headers and the headers that these include, and the CUDA
 * tools that the libraries use at run time.
 */
const KEPT = [
  /^tensorflow\/libtensorflow_(cc|framework)\.so\.2$/,
  /^tensorflow\/include\/(tensorflow|(tensorflow\/|xla\/)?tsl)\/c\/.*\.h$/,
  /^tensorflow\/include\/(tensorflow\/core|(tensorflow\/|xla\/)?tsl)\/platform\/ctstring(_internal)?\.h$/,
  /^nvidia\/[^/]+\/lib\/[^/]+\.so[.\d]*$/,
  /^nvidia\/cuda_nvcc\/(bin|nvvm)\//,
  /^[^/]+\.dist-info\/METADATA$/,
  /^[^/]+\.dist-info\/.*(LICENSE|License|NOTICE)[^/]*$/,
];

/** Fetches the wheels of one choice into a folder. */
class Fetching {
  private readonly finished: Finished;
  private readonly downloads: string;

  constructor(
    private readonly choice: TensorFlowChoice,
    private readonly folder: string,
    private readonly output: Console,
  ) {
    this.downloads = join(folder, 'downloads');
    makeCacheFolder(folder);
    makeFolder(this.downloads, 0o700);
    this.finished = FINISHED_SCHEMA.safeParse(readJson(join(folder, FINISHED))).data ?? {};
  }

  /** Downloads and unpacks the wheel of a requirement, unless an earlier run did. */
  async fetch(requirement: string): Promise<void> {
    if (requirement in this.finished) {
      return;
    }
    const {wheel, sum} = await this.download(requirement);
    await this.unpack(wheel);
    this.finished[requirement] = {wheel: wheel.split('/').at(-1)!, sha256: sum};
    writeJson(join(this.folder, FINISHED), this.finished);
    rmSync(wheel);
  }

  /** The wheel that an earlier run downloaded completely but did not unpack, or null. */
  private kept(requirement: string): string | null {
    const name = /^[\w.-]*\w/.exec(requirement)![0].replace(/[-.]+/g, '_').toLowerCase();
    const wheel = readdirSync(this.downloads).find((file) => file.toLowerCase().startsWith(`${name}-`));
    return wheel === undefined ? null : join(this.downloads, wheel);
  }

  private async download(requirement: string): Promise<{wheel: string; sum: string}> {
    const kept = this.kept(requirement);
    if (kept !== null) {
      const sum = await sha256OfFile(kept);
      if ((await this.damage(kept, sum, requirement)) === null) {
        this.output.say(`Using ${kept.split('/').at(-1)}, which an earlier run downloaded.`);
        return {wheel: kept, sum};
      }
      rmSync(kept);
    }
    const wanted = {requirement, platform: this.choice.platform, folder: this.downloads};
    const wheel = await downloadWheel(await findPip(), wanted, this.output);
    const sum = await sha256OfFile(wheel);
    const damage = await this.damage(wheel, sum, requirement);
    if (damage !== null) {
      rmSync(wheel);
      throw new UserError(
        `setup-node: the wheel of ${requirement} must be whole, got ${damage}. Run "python3 -m pip cache purge", then the ` +
          `same command again; if that does not help, the package index that pip uses has a wrong file.`,
      );
    }
    return {wheel, sum};
  }

  /** The fault of a wheel, or null. */
  private async damage(wheel: string, sum: string, requirement: string): Promise<string | null> {
    const pinned = pinnedHashes(requirement);
    if (pinned !== null && !pinned.includes(sum)) {
      const known = pinned.map((each) => `${each.slice(0, 12)}...`).join(' or ');
      return `SHA-256 ${sum.slice(0, 12)}... in place of ${known}`;
    }
    try {
      return await withZip(wheel, () => null);
    } catch (error) {
      return (error as Error).message;
    }
  }

  private async unpack(wheel: string): Promise<void> {
    try {
      await withZip(wheel, async (entries, zip) => {
        const kept = entries.filter(({fileName}) => KEPT.some((pattern) => pattern.test(fileName)));
        const total = kept.reduce((sum, {uncompressedSize}) => sum + uncompressedSize, 0);
        const name = wheel.split('/').at(-1)!.split('-').slice(0, 2).join(' ');
        const progress = this.output.start(`Unpacking ${name}`, total);
        let done = 0;
        const onBytes = (bytes: number) => {
          progress.update((done += bytes));
        };
        try {
          for (const entry of kept) await unzip(zip, entry, join(this.folder, entry.fileName), onBytes);
        } finally {
          progress.stop();
        }
      });
    } catch (error) {
      const {code} = error as NodeJS.ErrnoException;
      if (code !== undefined && !code.startsWith('Z_')) {
        throw error; // An error of the disk, not of the wheel or of zlib.
      }
      rmSync(wheel);
      throw new UserError(
        `setup-node: ${wheel} must be whole, got a damaged one: ${(error as Error).message}. It is deleted; run the same ` +
          `command again.`,
      );
    }
  }

  /**
   * The CUDA requirements of TensorFlow in pip's form, pinned ones or those that its wheel lists:
   * `nvidia-cublas-cu12<13.0,>=12.5.3.2`.
   */
  cudaRequirements(): string[] {
    const pinned = pinnedCuda(this.choice.version);
    if (pinned !== null) return pinned;
    const info = readdirSync(this.folder).find((name) => /^tensorflow.*\.dist-info$/.test(name));
    const metadata = info ? readFileSync(join(this.folder, info, 'METADATA'), 'utf8') : '';
    // Older wheels write `nvidia-cublas-cu12 (==12.2.5.6) ; extra == 'and-cuda'`.
    const pattern = /^Requires-Dist: (nvidia-[^;]+);\s*extra == ["']and-cuda["']/gm;
    return [...metadata.matchAll(pattern)].map(([, requirement]) => requirement.replace(/[\s()]/g, ''));
  }

  /** The sizes of all files except this module's own records. */
  manifest(): Manifest {
    const sizes: Record<string, number> = {};
    rmSync(this.downloads, {recursive: true});
    rmSync(join(this.folder, FINISHED));
    for (const path of filesBelow(this.folder)) {
      sizes[path.slice(this.folder.length + 1)] = statSync(path).size;
    }
    const wheels = Object.fromEntries(Object.values(this.finished).map(({wheel, sha256}) => [wheel, sha256]));
    return {version: this.choice.version, gpu: this.choice.gpu, wheels, sizes};
  }
}

function tensorFlowRequirement({version, gpu, platform}: TensorFlowChoice): string {
  // For arm64 there is one wheel, without CUDA.
  return `${gpu || platform.arch === 'arm64' ? 'tensorflow' : 'tensorflow-cpu'}==${version}`;
}

function checkLibraries(folder: string, {version}: TensorFlowChoice): void {
  const missing = LIBRARIES.filter((name) => !existsSync(join(folder, 'tensorflow', name)));
  if (missing.length > 0) {
    throw new UserError(
      `setup-node: the wheel of TensorFlow must have ${LIBRARIES.join(' and ')}, got ${version} without ` +
        `${missing.join(' and ')}. Choose a newer one with --tensorflow, such as ${TENSORFLOW_VERSION}.`,
    );
  }
}

async function fetchAll(choice: TensorFlowChoice, partial: string, output: Console): Promise<void> {
  requireSpace(cacheFolder(), choice.gpu ? SPACE.gpu : SPACE.cpu);
  const fetching = new Fetching(choice, partial, output);
  if (choice.version !== TENSORFLOW_VERSION) {
    output.say(
      `TensorFlow ${choice.version} is verified by the package index alone: hashes are known of ${TENSORFLOW_VERSION}.`,
    );
  }
  await fetching.fetch(tensorFlowRequirement(choice));
  try {
    checkLibraries(partial, choice);
  } catch (error) {
    rmSync(partial, {recursive: true, force: true});
    throw error;
  }
  const cuda = choice.gpu ? fetching.cudaRequirements() : [];
  if (choice.gpu && cuda.length === 0) {
    output.say(`TensorFlow ${choice.version} names no wheels of CUDA: its CUDA and cuDNN must be on this machine.`);
  }
  for (const requirement of cuda) {
    await fetching.fetch(requirement);
  }
  writeJson(join(partial, MANIFEST), fetching.manifest());
}

/** Turns disk errors into errors that name the remedy. */
function explain(error: unknown): unknown {
  const {code, path} = error as NodeJS.ErrnoException;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new UserError(
      `setup-node: the disk must have room for TensorFlow, got none left at ${cacheFolder()}. Free some, or set ` +
        `XDG_CACHE_HOME to a folder on a larger disk, then run the same command again.`,
    );
  }
  if (['EACCES', 'EPERM', 'EROFS', 'ENOTDIR'].includes(code ?? '')) {
    return new UserError(
      `setup-node: the cache folder must be writable, got ${code} at ${path ?? cacheFolder()}. Fix its permissions, or ` +
        `set XDG_CACHE_HOME to a folder that you can write.`,
    );
  }
  return error;
}

/**
 * Returns TensorFlow from the cache, after downloading and unpacking it if it is missing or damaged. Safe if several
 * processes do so at once or one is interrupted.
 *
 * @throws UserError, with the remedy.
 */
export async function provideTensorFlow(choice: TensorFlowChoice, output: Console): Promise<TensorFlow> {
  const folder = tensorFlowFolder(choice);
  if (isComplete(folder)) {
    return {...choice, folder};
  }
  const partial = join(cacheFolder(), `.${folderName(choice)}.partial`);
  const wait = () => {
    output.say('Another process is fetching TensorFlow; waiting for it ...');
  };
  try {
    await withLock(`${partial}.lock`, wait, async () => {
      if (isComplete(folder)) {
        return;
      }
      if (existsSync(folder)) {
        output.say(`${folder} is damaged; it is made again.`);
        rmSync(folder, {recursive: true, force: true});
      }
      await fetchAll(choice, partial, output);
      renameSync(partial, folder);
    });
  } catch (error) {
    throw explain(error);
  }
  return {...choice, folder};
}
