/** @file Describes this machine, and checks whether TensorFlow's wheels for Linux run on it. */
import {existsSync, readFileSync, statfsSync} from 'node:fs';
import {arch, cpus} from 'node:os';
import {dirname} from 'node:path';
import {UserError} from './user_error.js';

export interface Platform {
  os: NodeJS.Platform;
  arch: string;
  /** Version of glibc, for example '2.36'; null if the C library is another one. */
  glibc: string | null;
}

/**
 * Minor version of the oldest glibc that TensorFlow's wheels are built for (`manylinux_2_27`), and so of the oldest tag
 * that pip gets.
 */
const OLDEST_GLIBC = 27;
const OLDEST_TAG = 17;

function glibcVersion(): string | null {
  if (process.platform !== 'linux') {
    return null;
  }
  // Looking up the names of network interfaces can take seconds.
  (process.report as {excludeNetwork?: boolean}).excludeNetwork = true;
  const {header} = process.report.getReport() as unknown as {header: {glibcVersionRuntime?: string}};
  return header.glibcVersionRuntime ?? null;
}

export function thisPlatform(): Platform {
  return {os: process.platform, arch: arch(), glibc: glibcVersion()};
}

/** The processor's name in pip's tags: 'x86_64' or 'aarch64'. */
function wheelArch({arch}: Platform): string {
  return arch === 'arm64' ? 'aarch64' : 'x86_64';
}

/** @example 'linux-x64 with glibc 2.36' */
export function describePlatform({os, arch, glibc}: Platform): string {
  return `${os}-${arch}${os === 'linux' ? (glibc ? ` with glibc ${glibc}` : ' without glibc') : ''}`;
}

function minorOf(glibc: string): number {
  const [major, minor] = glibc.split('.').map(Number);
  return major > 2 ? Infinity : minor;
}

/** pip's tags for the wheels that this machine can run, newest first. */
export function platformTags(platform: Platform): string[] {
  const newest = Math.min(minorOf(platform.glibc ?? '2.0'), 45);
  const tags: string[] = [];
  for (let minor = newest; minor >= OLDEST_TAG; minor--) {
    tags.push(`manylinux_2_${minor}_${wheelArch(platform)}`);
  }
  return [...tags, `manylinux2014_${wheelArch(platform)}`];
}

/** The reason why TensorFlow's wheels cannot be used here and the remedy, or null if they can. */
export function unsupported(platform: Platform, gpu: boolean): string | null {
  const got = `got ${describePlatform(platform)}`;
  if (platform.os !== 'linux') {
    const remedy =
      platform.os === 'win32'
        ? 'Use WSL 2, or run tfjs-node\'s own installer: "npm rebuild @tensorflow/tfjs-node".'
        : 'Run tfjs-node\'s own installer: "npm rebuild @tensorflow/tfjs-node --build-addon-from-source".';
    return `the platform must be Linux, whose TensorFlow wheels it takes, ${got}. ${remedy}`;
  }
  if (!['x64', 'arm64'].includes(platform.arch)) {
    return `the processor must be x64 or arm64, ${got}. TensorFlow has no wheel for another: use one of those.`;
  }
  if (platform.glibc === null) {
    return `the C library must be glibc, ${got}, as in Alpine. Use an image with glibc, such as node:22-bookworm-slim.`;
  }
  if (minorOf(platform.glibc) < OLDEST_GLIBC) {
    return `glibc must be 2.${OLDEST_GLIBC} or newer, ${got}. Use Debian 10, Ubuntu 18.04, RHEL 8 or newer.`;
  }
  if (gpu && platform.arch !== 'x64') {
    return `--gpu needs x64, ${got}. TensorFlow's wheels have CUDA for x64 alone: leave --gpu out.`;
  }
  return null;
}

/** Free bytes on the file system of `folder`, or of its nearest existing parent. */
function freeBytes(folder: string): number {
  let existing = folder;
  while (!existsSync(existing) && dirname(existing) !== existing) {
    existing = dirname(existing);
  }
  const {bavail, bsize} = statfsSync(existing);
  return bavail * bsize;
}

/** @example '1.3 GB' */
export function formatBytes(bytes: number): string {
  return bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

/** @throws UserError if `free` is less than `needed`. */
export function requireSpace(folder: string, needed: number, free = freeBytes(folder)): void {
  if (free < needed) {
    throw new UserError(
      `setup-node: ${folder} must have ${formatBytes(needed)} free, got ${formatBytes(free)}. Free some, or set ` +
        `XDG_CACHE_HOME to a folder on a larger disk.`,
    );
  }
}

export interface Processor {
  model: string;
  /** The processor's instruction sets, of those that kernels are written for. */
  instructions: string[];
}

const INSTRUCTIONS: Record<string, string> = {
  avx2: 'AVX2',
  fma: 'FMA',
  avx512f: 'AVX-512',
  avx512_bf16: 'AVX-512 BF16',
  amx_tile: 'AMX',
  asimd: 'NEON',
  sve: 'SVE',
};

/** The processor's model and instruction sets. Only Linux reports the latter. */
export function thisProcessor(): Processor {
  const model = cpus()[0]?.model.trim() || 'unknown processor';
  let flags = new Set<string>();
  try {
    const line = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'));
    flags = new Set(line?.[1].split(' '));
  } catch {
    // Not Linux. The addon itself detects the instruction sets.
  }
  const instructions = Object.keys(INSTRUCTIONS).filter((flag) => flags.has(flag));
  return {model, instructions: instructions.map((flag) => INSTRUCTIONS[flag])};
}
