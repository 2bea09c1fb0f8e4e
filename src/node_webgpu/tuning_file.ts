/** @file Stores measured tiles in the user's cache folder. */
import {readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import type {TuningStorage} from '../backends/webgpu/device/tuned_tiles_store.js';
import {cacheFolder, makeCacheFolder} from './cache_folder.js';

/** `autotune.json` in the cache folder, whose path is read at each call. */
export function tuningFile(): TuningStorage {
  const path = (): string => join(cacheFolder(), 'autotune.json');
  return {
    read: () => {
      try {
        return readFileSync(path(), 'utf8');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
        throw error;
      }
    },
    write: (text) => {
      makeCacheFolder(cacheFolder());
      // A process that reads at the same time gets the old or the new text, never a partial one.
      const writing = `${path()}.${process.pid}`;
      writeFileSync(writing, text);
      renameSync(writing, path());
    },
    clear: () => rmSync(path(), {force: true}),
  };
}
