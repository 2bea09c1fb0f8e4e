/** @file Finds this package's folder: the repository, or a folder in a project's node_modules. */
import {existsSync} from 'node:fs';

/** The folder of this package's package.json, with a slash at its end. */
export function packageRoot(): URL {
  let folder = new URL('.', import.meta.url);
  while (!existsSync(new URL('package.json', folder))) {
    folder = new URL('..', folder);
  }
  return folder;
}
