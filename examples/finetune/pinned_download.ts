/** @file Downloads a pinned file of PyPI with pip into a cache: checked, complete or absent, and safe to interrupt. */
import {spawn, spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {existsSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {makeFolder} from '../../src/node_webgpu/make_folder.js';

/** A file of a package index, fixed by its hash. */
export interface PinnedFile {
  project: string;
  version: string;
  file: string;
  bytes: number;
  sha256: string;
  /** Which of the version's files pip should fetch. */
  kind: 'wheel' | 'sdist';
}

export interface DownloadOptions {
  /** Folder for the downloaded files. */
  cache: string;
  /** Called a few times per second with the number of bytes so far. */
  onProgress?: (bytes: number) => void;
  /** Called with a sentence for the user. */
  onNotice?: (text: string) => void;
}

/** No Python with pip is on the PATH. */
export class PipMissingError extends Error {}

const STALE_MS = 3600_000;
const POLL_MS = 150;

/**
 * The bytes of a pinned file: from the cache if it is there and intact, else downloaded.
 *
 * @throws PipMissingError if there is no pip. Error with a remedy if the network or the file fails.
 */
export async function pinnedFile(pin: PinnedFile, options: DownloadOptions): Promise<Uint8Array> {
  const path = join(options.cache, pin.file);
  if (existsSync(path)) {
    const bytes = readFileSync(path);
    if (sha256(bytes) === pin.sha256) {
      return bytes;
    }
    options.onNotice?.(`${path} is damaged; downloading it again.`);
    rmSync(path);
  }
  makeFolder(options.cache, 0o700);
  removeStale(options.cache);
  const folder = mkdtempSync(join(options.cache, '.download-'));
  try {
    await runPip(pin, folder, options);
    const bytes = readFileSync(join(folder, pin.file));
    if (sha256(bytes) !== pin.sha256) {
      throw new Error(
        `${pin.file} arrived corrupt: sha256 ${sha256(bytes)}, wanted ${pin.sha256}. Try again, or check the package index.`,
      );
    }
    // Only a complete file gets its name, so that an interrupted download cannot be mistaken for one.
    renameSync(join(folder, pin.file), path);
    return bytes;
  } finally {
    rmSync(folder, {recursive: true, force: true});
  }
}

/** The command that runs pip, or null if this machine has none. */
export function findPip(): string[] | null {
  const candidates = [['python3', '-m', 'pip'], ['python', '-m', 'pip'], ['pip3'], ['pip']];
  const works = ([command, ...rest]: string[]): boolean => spawnSync(command, [...rest, '--version']).status === 0;
  return candidates.find(works) ?? null;
}

async function runPip(pin: PinnedFile, folder: string, options: DownloadOptions): Promise<void> {
  const pip = findPip();
  if (pip === null) {
    throw new PipMissingError(
      `${pin.project} ${pin.version} comes from PyPI, and there is no pip here. Install Python 3 with pip.`,
    );
  }
  const [command, ...rest] = pip;
  const kind = pin.kind === 'wheel' ? '--only-binary' : '--no-binary';
  const flags = [
    '--no-deps',
    '--python-version',
    '3.12',
    '--disable-pip-version-check',
    '--quiet',
    '--retries',
    '1',
    '--timeout',
    '20',
  ];
  const args = [...rest, 'download', ...flags, kind, ':all:', '--dest', folder, `${pin.project}==${pin.version}`];
  // pip writes to a temporary folder first. We set that folder, so its growth shows the progress.
  const child = spawn(command, args, {env: {...process.env, TMPDIR: folder}, stdio: ['ignore', 'ignore', 'pipe']});
  let messages = '';
  child.stderr.on('data', (text: Buffer) => (messages += text.toString()));
  const timer = setInterval(() => options.onProgress?.(bytesOf(folder, pin.file)), POLL_MS);
  try {
    const status = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', resolve);
    });
    if (status !== 0 || !existsSync(join(folder, pin.file))) {
      throw new Error(explain(pin, messages));
    }
    options.onProgress?.(pin.bytes);
  } finally {
    clearInterval(timer);
  }
}

function explain(pin: PinnedFile, messages: string): string {
  const offline = /connection|resolve|timed out|retrying|unreachable|proxy|max retries/i.test(messages);
  const reason = offline
    ? 'the package index cannot be reached. Check the network'
    : `pip failed:\n${messages.trim().split('\n').slice(-6).join('\n')}\nMend that`;
  return (
    `Cannot download ${pin.project} ${pin.version}: ${reason}, or give local files with --model and --data, ` +
    `or train without a download: npm start -- --from-scratch.`
  );
}

/** Size of the largest copy of the file below a folder. */
function bytesOf(folder: string, file: string): number {
  try {
    const found = readdirSync(folder, {recursive: true, encoding: 'utf8'}).filter((path) => path.endsWith(file));
    return Math.max(0, ...found.map((path) => statSync(join(folder, path)).size));
  } catch {
    return 0; // pip moved it between the two calls.
  }
}

/** Removes the folders that a killed process left. */
function removeStale(cache: string): void {
  for (const name of readdirSync(cache)) {
    const path = join(cache, name);
    if (name.startsWith('.download-') && Date.now() - statSync(path).mtimeMs > STALE_MS) {
      rmSync(path, {recursive: true, force: true});
    }
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
