/** @file Finds optional peer packages from this package's folder, or else from the working directory. */
import {existsSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join} from 'node:path';
import {pathToFileURL} from 'node:url';

/**
 * Directories whose `node_modules` chains are searched. A linked package does not see the packages of the project that
 * uses it.
 */
function searchRoots(): string[] {
  return [import.meta.url, pathToFileURL(join(process.cwd(), 'x.js')).href];
}

/** Absolute path of a package's main file, or null if it is not installed. */
export function findPackage(name: string): string | null {
  for (const root of searchRoots()) {
    try {
      return createRequire(root).resolve(name);
    } catch {
      // Not found from here; try the next root.
    }
  }
  return null;
}

/** Absolute folder of a package, or null if it is not installed. */
export function findPackageFolder(name: string): string | null {
  const main = findPackage(name);
  if (main === null) {
    return null;
  }
  // The `exports` of a package may hide its package.json from `resolve`, so walk up to it instead.
  let folder = dirname(main);
  while (!folder.endsWith(join('node_modules', ...name.split('/')))) {
    if (dirname(folder) === folder) {
      return null;
    }
    folder = dirname(folder);
  }
  return existsSync(join(folder, 'package.json')) ? folder : null;
}
