/** @file A lock between processes: a file that names its holder, who updates its timestamp. */
import {randomBytes} from 'node:crypto';
import {
  constants,
  copyFileSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import {hostname} from 'node:os';
import {dirname} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {makeFolder} from '../node_webgpu/make_folder.js';
import {onInterrupt} from './run.js';
import {UserError} from './user_error.js';

const TOUCH_MS = 5000;
/** Age at which the lock of another machine is stale. A holder on a busy machine is never this late. */
const STALE_MS = 60_000;
const POLL_MS = 300;

/** A lock that this process holds. */
export interface Lock {
  /** False if another process took the lock, because this one gave no sign of life for too long. */
  isHeld: () => boolean;
  release: () => void;
}

/** The content of the file. */
interface Holder {
  host: string;
  /** Containers share names of hosts and numbers of processes, but not this namespace of the numbers. */
  namespace: string;
  pid: number;
  /** When the process started, because numbers of processes are used again. Empty where the system does not tell. */
  started: string;
  /** Tells the locks of one process apart. */
  id: string;
}

/** A file of /proc by `read`, or '' where there is none. */
function fromProc(read: () => string): string {
  try {
    return read();
  } catch {
    return '';
  }
}

function startOf(pid: number): string {
  // The name of the program comes before, in parentheses, and may hold blanks.
  return fromProc(
    () =>
      readFileSync(`/proc/${pid}/stat`, 'utf8')
        .replace(/^[^]*\) /, '')
        .split(' ')[19],
  );
}

function thisHolder(): Holder {
  const namespace = fromProc(() => readlinkSync('/proc/self/ns/pid'));
  const id = randomBytes(8).toString('hex');
  return {host: hostname(), namespace, pid: process.pid, started: startOf(process.pid), id};
}

function isAlive({pid, started}: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false;
  }
  return started === '' || startOf(pid) === started;
}

/** The file's text; null if it was just released. */
function textOf(path: string): string | null {
  const stat = statSync(path, {throwIfNoEntry: false});
  if (stat === undefined) return null;
  if (!stat.isFile()) {
    const got = stat.isDirectory() ? 'a folder' : 'no file';
    throw new UserError(`${path} must be the lock file of another process, got ${got}. Delete it.`);
  }
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** Null for a text that is no holder, such as an empty file after a power cut. */
function parseHolder(text: string): Holder | null {
  try {
    const holder = JSON.parse(text) as Holder | null;
    return Number.isSafeInteger(holder?.pid) ? holder : null;
  } catch {
    return null;
  }
}

/** Whether the holder is gone: its process has ended; or, if that cannot be seen from here, the lock is too old. */
function isStale(path: string, staleMs: number): boolean {
  const text = textOf(path);
  const stat = statSync(path, {throwIfNoEntry: false});
  if (text === null || stat === undefined) return false;
  const [holder, here] = [parseHolder(text), thisHolder()];
  if (holder?.host === here.host && holder.namespace === here.namespace) return !isAlive(holder);
  return Date.now() - stat.mtimeMs > staleMs;
}

/** @example describeHolder('output/.lock') // 'process 12 on machine' */
export function describeHolder(path: string): string {
  const holder = parseHolder(textOf(path) ?? '');
  return holder === null ? 'another process' : `process ${holder.pid} on ${holder.host}`;
}

/** Makes the lock's file. False if there is one. A reader of half a text takes it for a holder that it cannot see. */
function tryToMake(path: string, text: string): boolean {
  try {
    writeFileSync(path, text, {flag: 'wx'});
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return false;
  }
}

function removeStale(path: string, staleMs: number): void {
  const aside = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, aside);
  } catch {
    return; // Another process was first.
  }
  // Another process may have taken the lock between the check and the rename. Then restore it.
  if (!isStale(aside, staleMs)) {
    tryToRestore(aside, path);
  }
  rmSync(aside, {force: true});
}

function tryToRestore(aside: string, path: string): void {
  try {
    copyFileSync(aside, path, constants.COPYFILE_EXCL);
  } catch {
    // A third process has the lock. The second finds out by `isHeld`.
  }
}

/**
 * Takes the lock, or returns null if another process holds it. The folder must exist.
 *
 * @param staleMs Age at which the lock of another machine counts as left behind.
 */
export function tryLock(path: string, staleMs = STALE_MS): Lock | null {
  const text = JSON.stringify(thisHolder());
  if (!tryToMake(path, text)) {
    if (!isStale(path, staleMs)) return null;
    removeStale(path, staleMs);
    if (!tryToMake(path, text)) return null;
  }
  const isHeld = (): boolean => textOf(path) === text;
  const timer = setInterval(() => {
    try {
      if (isHeld()) utimesSync(path, new Date(), new Date());
    } catch {
      // The user emptied the folder. The work itself will fail or create it again.
    }
  }, TOUCH_MS).unref();
  const release = (): void => {
    clearInterval(timer);
    if (isHeld()) rmSync(path, {force: true});
  };
  return {isHeld, release};
}

/** Runs `work` while no other process does so under the same lock. Calls `onWait` once if it has to wait. */
export async function withLock<T>(path: string, onWait: () => void, work: () => Promise<T>): Promise<T> {
  makeFolder(dirname(path));
  let lock = tryLock(path);
  if (lock === null) onWait();
  while (lock === null) {
    await sleep(POLL_MS);
    lock = tryLock(path);
  }
  const forget = onInterrupt(lock.release);
  try {
    return await work();
  } finally {
    forget();
    lock.release();
  }
}
