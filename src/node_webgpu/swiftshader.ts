/**
 * @file Unpacks SwiftShader and a Vulkan loader from `@sparticuz/chromium`'s archive to where Dawn finds them.
 *
 * The archive is unpacked once into the user's cache. It goes to a private folder that is then renamed, so that
 * interrupted or concurrent processes leave no half-written driver.
 */
import {createHash} from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import {constants, homedir, tmpdir} from 'node:os';
import {join} from 'node:path';
import {isMainThread} from 'node:worker_threads';
import {brotliDecompressSync} from 'node:zlib';
import {findPackageFolder} from './packages.js';
import {untar} from './untar.js';

const PACKAGE = '@sparticuz/chromium';
/** The tested version: the last one with this archive that supports Node 20. */
const PACKAGE_VERSION = '143.0.4';
const LOADER = 'libvulkan.so.1';
const MANIFEST = 'vk_swiftshader_icd.json';
const FILES = [LOADER, 'libvk_swiftshader.so', MANIFEST];
/** Written last. Holds the sizes of the other files, so that a damaged cache is noticed and unpacked again. */
const SIZES = 'sizes.json';
const ABANDONED_AFTER_MS = 10 * 60 * 1000;
/** glibc's RTLD_NODELETE, which `os.constants.dlopen` lacks. */
const RTLD_NODELETE = 0x1000;

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

/** The user's cache folder for this package: `$XDG_CACHE_HOME` or `~/.cache`, then `tfjs-flashmask`. */
export function cacheFolder(): string {
  const base = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  return join(base, 'tfjs-flashmask');
}

function isComplete(folder: string): boolean {
  try {
    const sizes = JSON.parse(readFileSync(join(folder, SIZES), 'utf8')) as Record<string, number>;
    return FILES.every((name) => statSync(join(folder, name)).size === sizes[name]);
  } catch {
    return false;
  }
}

function writeDriver(archive: Uint8Array, folder: string): void {
  let files: Map<string, Uint8Array>;
  try {
    files = untar(brotliDecompressSync(archive));
  } catch (cause) {
    throw new Error(`useWebGPU: ${PACKAGE}'s swiftshader.tar.br is damaged. ${otherVersion()}`, {cause});
  }
  const sizes: Record<string, number> = {};
  for (const name of FILES) {
    const content = files.get(name);
    if (content === undefined) {
      throw new Error(`useWebGPU: ${PACKAGE}'s swiftshader.tar.br lacks ${name}. ${otherVersion()}`);
    }
    writeFileSync(join(folder, name), content, {mode: 0o755});
    sizes[name] = content.length;
  }
  writeFileSync(join(folder, SIZES), JSON.stringify(sizes));
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

function unpackInto(parent: string, name: string, archive: Uint8Array): string {
  const target = join(parent, name);
  mkdirSync(parent, {recursive: true});
  removeAbandoned(parent);
  const unpacking = mkdtempSync(join(parent, '.unpacking-'));
  try {
    writeDriver(archive, unpacking);
    for (let attempt = 0; attempt < 5 && !isComplete(target); attempt++) {
      try {
        renameSync(unpacking, target);
      } catch (error) {
        if (!['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) {
          throw error;
        }
        // Either another process was first, and the loop ends, or a damaged copy blocks the name.
        if (!isComplete(target)) {
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
function unpackPrivately(archive: Uint8Array): string {
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-flashmask-'));
  process.once('exit', () => rmSync(folder, {recursive: true, force: true}));
  writeDriver(archive, folder);
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
  const name = `swiftshader-${createHash('sha256').update(archive).digest('hex').slice(0, 12)}`;
  const parent = cacheFolder();
  if (isComplete(join(parent, name))) {
    return join(parent, name);
  }
  try {
    return unpackInto(parent, name, archive);
  } catch (error) {
    if (['EACCES', 'EROFS', 'EPERM', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) {
      return unpackPrivately(archive);
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
