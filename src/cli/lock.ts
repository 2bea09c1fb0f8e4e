/** @file A lock between processes: a file whose timestamp its holder updates while it runs. */
import {linkSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync} from 'node:fs';
import {hostname} from 'node:os';
import {dirname} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {onInterrupt} from './run.js';

const TOUCH_MS = 5000;
/** Age at which a lock is stale. A holder on a busy machine is never this late. */
const STALE_MS = 60_000;
const POLL_MS = 300;

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Whether the lock's holder is gone: its process, if it ran on this machine, has ended, or the lock is too old. */
function isStale(path: string): boolean {
  const stat = statSync(path, {throwIfNoEntry: false});
  if (stat === undefined) {
    return false;
  }
  let holder: string[] = [];
  try {
    holder = readFileSync(path, 'utf8').split(' ');
  } catch {
    return false; // The lock was just released.
  }
  const [host, pid] = holder;
  return (host === hostname() && !isAlive(Number(pid))) || Date.now() - stat.mtimeMs > STALE_MS;
}

/**
 * Tries to take the lock. The file is written completely and then linked to its name, so that no process reads half of
 * it.
 */
function tryToTake(path: string): boolean {
  const draft = `${path}.${process.pid}`;
  writeFileSync(draft, `${hostname()} ${process.pid}`);
  try {
    linkSync(draft, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') {
      throw error;
    }
    return false;
  } finally {
    rmSync(draft, {force: true});
  }
}

function removeStale(path: string): void {
  const aside = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, aside);
  } catch {
    return; // Another process was first.
  }
  // Another process may have taken the lock between the check and the rename. Then restore it.
  if (!isStale(aside)) {
    tryToRestore(aside, path);
  }
  rmSync(aside, {force: true});
}

function tryToRestore(aside: string, path: string): void {
  try {
    linkSync(aside, path);
  } catch {
    // A third process has the lock. It may work at the same time as the second: both leave the folder complete.
  }
}

/** Runs `work` while no other process does so under the same lock. Calls `onWait` once if it has to wait. */
export async function withLock<T>(path: string, onWait: () => void, work: () => Promise<T>): Promise<T> {
  mkdirSync(dirname(path), {recursive: true});
  for (let attempt = 0; !tryToTake(path); attempt++) {
    if (isStale(path)) {
      removeStale(path);
      continue;
    }
    if (attempt === 0) {
      onWait();
    }
    await sleep(POLL_MS);
  }
  const release = () => {
    rmSync(path, {force: true});
  };
  const forget = onInterrupt(release);
  const timer = setInterval(() => {
    try {
      utimesSync(path, new Date(), new Date());
    } catch {
      // The user emptied the cache. The work itself will fail or create it again.
    }
  }, TOUCH_MS);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    forget();
    release();
  }
}
