/**
 * @file Unpacks SwiftShader and a Vulkan loader from `@sparticuz/chromium`'s archive to where Dawn finds them.
 *
 * The archive is unpacked once into the user's cache. It goes to a private folder that is then renamed, so that
 * interrupted or concurrent processes leave no half-written driver.
 */
import {createHash} from 'node:crypto';
import {existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {constants, tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {isMainThread} from 'node:worker_threads';
import {brotliDecompressSync} from 'node:zlib';
import {cacheFolder, makeCacheFolder, requireOwn} from './cache_folder.js';
import {findPackageFolder} from './packages.js';
import {untar} from './untar.js';

const PACKAGE = '@sparticuz/chromium';
/** The tested version: the last one with this archive that supports Node 20. */
const PACKAGE_VERSION = '143.0.4';
const LOADER = 'libvulkan.so.1';
const MANIFEST = 'vk_swiftshader_icd.json';
const FILES = [LOADER, 'libvk_swiftshader.so', MANIFEST];
/** SHA-256 of the archive of the tested version, and of the files in it. Both libraries are loaded into the process. */
const TESTED_ARCHIVE = '1b4c63ac0f24bfedd469675c33b09c84f7d6d26acb30bed2ab8e875e084cf3a2';
const TESTED_FILES: Hashes = {
  [LOADER]: '858e4d3fd0fc5d1409f9c9c076e7611c0967459bab153c5cb4ec81124a24e53c',
  'libvk_swiftshader.so': '55571f337145a70e32bb64f07ceb413796cc7e9dc1ecac2144728777faf75c8c',
  [MANIFEST]: 'c9eef28b6b984fec220ef0abfecc40b502d46946706e47bfe97707027cb818bd',
};
const ABANDONED_AFTER_MS = 10 * 60 * 1000;
/** glibc's RTLD_NODELETE, which `os.constants.dlopen` lacks. */
const RTLD_NODELETE = 0x1000;

/** SHA-256 of files by name. */
type Hashes = Readonly<Record<string, string>>;

/** The reason why SwiftShader cannot be used on this platform, or null if it can. */
export function swiftShaderUnsupported(): string | null {
  const platform = `${process.platform}-${process.arch}`;
  return platform === 'linux-x64' ? null : `SwiftShader comes only for linux-x64, got ${platform}`;
}

function versionIn(folder: string): string {
  return (JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {version: string}).version;
}

/** The remedy for an unexpected archive. Any version may be installed, but only one is tested. */
function otherVersion(): string {
  const folder = findPackageFolder(PACKAGE);
  return `Version ${folder ? versionIn(folder) : 'unknown'} is installed and ${PACKAGE_VERSION} is tested: run \`npm install ${PACKAGE}@${PACKAGE_VERSION}\`.`;
}

function archivePath(): string {
  const folder = findPackageFolder(PACKAGE);
  const install = `npm install ${PACKAGE}@${PACKAGE_VERSION}`;
  if (folder === null) {
    throw new Error(
      `useWebGPU: no usable GPU driver was found, and the software one needs the npm package ${PACKAGE}, ` +
        `which is not installed. Run \`${install}\`, or install a Vulkan driver for your GPU.`,
    );
  }
  const archive = join(folder, 'bin', 'swiftshader.tar.br');
  if (!existsSync(archive)) {
    throw new Error(
      `useWebGPU: the software driver needs bin/swiftshader.tar.br of ${PACKAGE}, got version ${versionIn(folder)} without it. ` +
        `Run \`${install}\`.`,
    );
  }
  return archive;
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** The files of the archive. Throws, with the remedy, if it is damaged. */
function filesOf(archive: Uint8Array): Map<string, Uint8Array> {
  let files: Map<string, Uint8Array>;
  try {
    files = untar(brotliDecompressSync(archive));
  } catch (cause) {
    throw new Error(`useWebGPU: ${PACKAGE}'s swiftshader.tar.br is damaged. ${otherVersion()}`, {cause});
  }
  const missing = FILES.find((name) => !files.has(name));
  if (missing !== undefined) {
    throw new Error(`useWebGPU: ${PACKAGE}'s swiftshader.tar.br lacks ${missing}. ${otherVersion()}`);
  }
  return files;
}

/** What the files must be: for the tested archive known beforehand, for any other read from it. */
function hashesOf(archive: Uint8Array): Hashes {
  if (sha256(archive) === TESTED_ARCHIVE) return TESTED_FILES;
  const files = filesOf(archive);
  return Object.fromEntries(FILES.map((name) => [name, sha256(files.get(name)!)]));
}

/** Whether a folder has the driver, byte for byte. Throws, with the remedy, if others could change it meanwhile. */
function isComplete(folder: string, hashes: Hashes): boolean {
  requireOwn(folder);
  try {
    return FILES.every((name) => sha256(readFileSync(join(folder, name))) === hashes[name]);
  } catch {
    return false;
  }
}

function writeDriver(archive: Uint8Array, folder: string, hashes: Hashes): void {
  const files = filesOf(archive);
  FILES.forEach((name) => writeFileSync(join(folder, name), files.get(name)!, {mode: 0o755}));
  if (!isComplete(folder, hashes)) {
    throw new Error(`useWebGPU: ${folder} must hold what was written to it, got other files. Is its disk damaged?`);
  }
}

/** Removes old folders, which interrupted processes left. The folders of running processes are younger. */
function removeAbandoned(parent: string): void {
  for (const name of readdirSync(parent).filter((name) => name.startsWith('.unpacking-'))) {
    const folder = join(parent, name);
    const age = Date.now() - (statSync(folder, {throwIfNoEntry: false})?.mtimeMs ?? Date.now());
    if (age > ABANDONED_AFTER_MS) {
      rmSync(folder, {recursive: true, force: true});
    }
  }
}

function unpackInto(target: string, archive: Uint8Array, hashes: Hashes): string {
  const parent = dirname(target);
  makeCacheFolder(parent);
  removeAbandoned(parent);
  const unpacking = mkdtempSync(join(parent, '.unpacking-'));
  try {
    writeDriver(archive, unpacking, hashes);
    for (let attempt = 0; attempt < 5 && !isComplete(target, hashes); attempt++) {
      try {
        renameSync(unpacking, target);
      } catch (error) {
        if (!['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) {
          throw error;
        }
        // Either another process was first, and the loop ends, or a damaged copy blocks the name.
        if (!isComplete(target, hashes)) {
          rmSync(target, {recursive: true, force: true});
        }
      }
    }
  } finally {
    rmSync(unpacking, {recursive: true, force: true});
  }
  return target;
}

/** For machines with a read-only cache folder: a private copy that is removed when the process ends. */
function unpackPrivately(archive: Uint8Array, hashes: Hashes): string {
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-flashmask-'));
  process.once('exit', () => rmSync(folder, {recursive: true, force: true}));
  writeDriver(archive, folder, hashes);
  return folder;
}

/**
 * Unpacks SwiftShader and the Vulkan loader if they are not unpacked yet, and returns their folder.
 *
 * Safe if several processes start at once or one is interrupted. Throws, with the remedy, if the package or its archive
 * is missing or damaged.
 */
function unpackSwiftShader(): string {
  const archive = readFileSync(archivePath());
  const hashes = hashesOf(archive);
  const folder = join(cacheFolder(), `swiftshader-${sha256(archive).slice(0, 12)}`);
  try {
    requireOwn(cacheFolder());
    return isComplete(folder, hashes) ? folder : unpackInto(folder, archive, hashes);
  } catch (error) {
    if (['EACCES', 'EROFS', 'EPERM', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return unpackPrivately(archive, hashes);
    }
    throw error;
  }
}

/**
 * Loads `library` and returns the dynamic linker's message. Node then refuses it as an addon, which does no harm here.
 */
function load(library: string, flags: number): string {
  try {
    process.dlopen({exports: {}}, library, flags);
    return '';
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * Whether Dawn, which asks for `libvulkan.so.1` by name, would find one. Dawn itself prints a warning if it does not.
 */
export function hasVulkanLoader(): boolean {
  return !/cannot open shared object file/.test(load(LOADER, constants.dlopen.RTLD_LAZY));
}

/**
 * Makes the Vulkan loader offer only SwiftShader, from now on and in child processes.
 *
 * `LD_LIBRARY_PATH` is read only when a process starts, so without a system loader our loader is loaded here by its
 * path and kept. A later request for its bare name gets that copy.
 */
export function activateSwiftShader(): void {
  if (!isMainThread && process.env.VK_DRIVER_FILES === undefined) {
    throw new Error(
      'useWebGPU: the software driver can be set up only on the main thread, whose environment the driver reads. ' +
        'Call useWebGPU() there before you start workers.',
    );
  }
  const folder = unpackSwiftShader();
  process.env.VK_DRIVER_FILES = join(folder, MANIFEST);
  process.env.VK_ICD_FILENAMES = join(folder, MANIFEST);
  process.env.XDG_RUNTIME_DIR ??= tmpdir();
  if (!hasVulkanLoader()) {
    const loader = join(folder, LOADER);
    const message = load(loader, constants.dlopen.RTLD_NOW | RTLD_NODELETE);
    if (!hasVulkanLoader()) {
      throw new Error(
        `useWebGPU: the Vulkan loader ${loader} cannot be loaded: ${message}. It needs glibc 2.26 or newer. ${otherVersion()}`,
      );
    }
  }
}
