/**
 * @file MPICH for tests with several processes: its wheel of PyPI, pinned, downloaded once into the cache, and its
 * mpiexec.
 */
import {existsSync, mkdirSync, renameSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {sha256OfFile} from '../../src/cli/files.js';
import {withLock} from '../../src/cli/lock.js';
import {downloadWheel, findPip} from '../../src/cli/pip.js';
import {thisPlatform} from '../../src/cli/platform.js';
import {plainConsole} from '../../src/cli/progress.js';
import {unzip, withZip} from '../../src/cli/unzip.js';
import {cacheFolder, makeCacheFolder} from '../../src/node_webgpu/cache_folder.js';

const VERSION = '5.0.2';
const SHA256 = '8fed465ebff269ea2ebac179a25de02671ddf8df476e0f115be089015015cfd4';
/** The files in the wheel, and those of them that are kept. */
const DATA = `mpich-${VERSION}.data/data/`;
const KEPT = /^(bin\/(mpiexec|hydra_pmi_proxy)|lib\/libmpi(_abi)?\.so\.\d+|lib\/mpich\/.*)$/;

/** Folder with `bin/mpiexec` and `lib/`, or the reason why there is none. */
export async function mpich(): Promise<{folder: string} | {reason: string}> {
  const platform = thisPlatform();
  if (platform.os !== 'linux' || platform.arch !== 'x64') return {reason: "the tests' MPI is a wheel for Linux on x64"};
  const folder = join(cacheFolder(), `mpich-${VERSION}`);
  try {
    makeCacheFolder(cacheFolder());
    if (!existsSync(folder))
      await withLock(
        `${folder}.lock`,
        () => undefined,
        () => provide(folder),
      );
    return {folder};
  } catch (error) {
    return {reason: error instanceof Error ? error.message : String(error)};
  }
}

async function provide(folder: string): Promise<void> {
  if (existsSync(folder)) return;
  const unfinished = `${folder}.tmp`;
  rmSync(unfinished, {recursive: true, force: true});
  mkdirSync(unfinished, {recursive: true});
  const wanted = {requirement: `mpich==${VERSION}`, platform: thisPlatform(), folder: unfinished};
  const wheel = await downloadWheel(
    await findPip(),
    wanted,
    plainConsole(() => undefined),
  );
  const sha256 = await sha256OfFile(wheel);
  if (sha256 !== SHA256) throw new Error(`the wheel of mpich must have the SHA-256 ${SHA256}, got ${sha256}`);
  await withZip(wheel, async (entries, zip) => {
    for (const entry of entries) {
      const path = entry.fileName.startsWith(DATA) ? entry.fileName.slice(DATA.length) : '';
      if (KEPT.test(path)) await unzip(zip, entry, join(unfinished, path));
    }
  });
  rmSync(wheel);
  renameSync(unfinished, folder);
}
