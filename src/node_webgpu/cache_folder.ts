/** @file The cache folder of this package, which must belong to its user alone: code in it is loaded. */
import {statSync} from 'node:fs';
import {homedir} from 'node:os';
import {isAbsolute, join} from 'node:path';
import {makeFolder} from './make_folder.js';

/** Permissions of group and others to write. */
const OTHERS_WRITE = 0o022;

/**
 * The user's cache folder for this package: `$XDG_CACHE_HOME` or `~/.cache`, then `tfjs-flashmask`. A relative path in
 * the variable does not count, as the XDG specification says.
 */
export function cacheFolder(): string {
  const {XDG_CACHE_HOME: base = ''} = process.env;
  return join(isAbsolute(base) ? base : join(homedir(), '.cache'), 'tfjs-flashmask');
}

/**
 * Makes a folder in the cache, readable by the user alone.
 *
 * @throws the file system's error, or one with the remedy if the cache or the folder is not the user's alone.
 */
export function makeCacheFolder(folder: string): void {
  makeFolder(folder, 0o700);
  requireOwn(cacheFolder());
  requireOwn(folder);
}

/** Throws, with the command that helps, if a path in the cache belongs to or can be written by somebody else. */
export function requireOwn(path: string): void {
  const problem = whyNotOwn(path);
  if (problem !== null) throw new Error(`The cache must belong to its user alone, got ${problem}`);
}

/** Who else could have written a file or folder, with the remedy. Null for nobody, or if it is not there. */
export function whyNotOwn(path: string): string | null {
  const stat = statSync(path, {throwIfNoEntry: false});
  const user = process.getuid?.();
  if (stat === undefined || user === undefined) return null;
  if (stat.uid !== user) {
    return `${path} of user ${stat.uid}, while this is user ${user}. Run: sudo rm -r '${path}', or set XDG_CACHE_HOME.`;
  }
  if ((stat.mode & OTHERS_WRITE) === 0) return null;
  return `${path}, which others can write (mode ${(stat.mode & 0o777).toString(8)}). Run: rm -r '${path}'`;
}
