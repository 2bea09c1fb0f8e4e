/** @file Where the libraries of MPI and NCCL may be. The addon takes the first that loads. */
import {existsSync, readFileSync, readlinkSync, realpathSync, statSync} from 'node:fs';
import {basename, delimiter, dirname, join} from 'node:path';
import type {Launcher} from './launcher.js';

/** File names by launcher. The standard ABI of MPI 5 comes first; MPICH's own is also that of Intel MPI. */
const MPI_NAMES: Record<Launcher, readonly string[]> = {
  torchrun: [],
  MPICH: ['libmpi_abi.so.1', 'libmpi.so.12'],
  'Open MPI': ['libmpi.so.40'],
  Slurm: ['libmpi_abi.so.1', 'libmpi.so.40', 'libmpi.so.12'],
};

/** Programs of launchers, which are beside the folder of their library. */
const PROGRAMS = /^(mpiexec|mpirun|hydra_pmi_proxy|pmi_proxy|prterun|prted|orterun|orted)/;
const BESIDE = ['lib', 'lib64', join('lib', 'release')];

/**
 * Candidates for MPI's library: what `FLASHMASK_MPI` names (a file or a folder); else the one of the launcher that
 * started this process, or of the mpiexec on the path; else what the system finds by name. Only the launcher's own
 * library knows the other processes.
 */
export function mpiLibraries(launcher: Launcher, environment: NodeJS.ProcessEnv): string[] {
  const {FLASHMASK_MPI: given, PATH = ''} = environment;
  // srun connects programs of MPI only if it was told so.
  const names = launcher === 'Slurm' && environment.PMIX_RANK === undefined ? [] : MPI_NAMES[launcher];
  if (given) return isFolder(given) ? names.map((name) => join(given, name)).filter(existsSync) : [given];
  const onPath = PATH.split(delimiter).map((folder) => join(folder, 'mpiexec'));
  const programs = [...launchersOfThisProcess(), ...onPath.filter(existsSync).map((path) => realpathSync(path))];
  const folders = programs.flatMap((program) => BESIDE.map((folder) => join(dirname(program), '..', folder)));
  const found = folders.flatMap((folder) => names.map((name) => join(folder, name))).filter(existsSync);
  return [...new Set([...found, ...names])];
}

const isFolder = (path: string): boolean => statSync(path, {throwIfNoEntry: false})?.isDirectory() ?? false;

/** Programs of launchers among the parents of this process, on Linux. */
function launchersOfThisProcess(): string[] {
  const programs: string[] = [];
  try {
    for (let id = process.ppid; id > 1;) {
      const program = readlinkSync(`/proc/${id}/exe`);
      if (PROGRAMS.test(basename(program))) programs.push(program);
      // "12 (name) S 11 ...": the name may hold anything.
      id = Number(/.*\) \S+ (\d+)/s.exec(readFileSync(`/proc/${id}/stat`, 'utf8'))?.[1] ?? 0);
    }
  } catch {
    // A parent of another user, or no Linux.
  }
  return programs;
}

const NCCL_NAME = 'libnccl.so.2';

/**
 * Candidates for NCCL's library: what `FLASHMASK_NCCL` names; else the one beside TensorFlow, which `setup-node --gpu`
 * brings; else what the system finds by name.
 *
 * @param tensorflow a library of TensorFlow that is loaded.
 */
export function ncclLibraries(tensorflow: string | null, environment: NodeJS.ProcessEnv): string[] {
  const {FLASHMASK_NCCL: given} = environment;
  if (given) return [isFolder(given) ? join(given, NCCL_NAME) : given];
  const own = tensorflow === null ? [] : [join(dirname(tensorflow), '..', 'nvidia', 'nccl', 'lib', NCCL_NAME)];
  return [...own.filter(existsSync), NCCL_NAME];
}
