/** @file Makes folders with the error that the file system gives. */
import {existsSync, mkdirSync} from 'node:fs';
import {dirname, resolve} from 'node:path';

/**
 * Makes a folder and its parents, unless they are there. Node's own recursive `mkdir` reports a read-only file system
 * as `ENOENT`, so that its caller cannot tell what is wrong.
 *
 * @param mode Permissions of the new folders, which the process's umask narrows.
 * @throws the error of the first folder that cannot be made, with its `code` and `path`.
 */
export function makeFolder(path: string, mode = 0o777): void {
  const folder = resolve(path);
  if (existsSync(folder)) return;
  makeFolder(dirname(folder), mode);
  try {
    mkdirSync(folder, {mode});
  } catch (error) {
    // Another process may have made it in between.
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}
