/** @file Which process this is among those that a launcher started, from what launchers put into the environment. */
import {describe, fail} from '../call/errors.js';

export type Launcher = 'torchrun' | 'MPICH' | 'Open MPI' | 'Slurm';

/** A process among those that a launcher started. */
export interface Place {
  launcher: Launcher;
  /** 0 to `size` - 1. */
  rank: number;
  size: number;
  /** The rank among the processes of this host, and their number where the launcher tells it. */
  localRank: number;
  localSize?: number;
}

/** Names of variables: a list gives the first that is set. */
interface Variables {
  rank: string;
  size: string;
  localRank: readonly string[];
  localSize: readonly string[];
}

/**
 * In the order in which they count: torchrun may run in a job of Slurm, and srun sets the variables of MPICH for
 * programs of MPI. Slurm's SLURM_PROCID alone also stands in batch scripts, where no process belongs to a step.
 */
const LAUNCHERS: Record<Launcher, Variables> = {
  torchrun: {rank: 'RANK', size: 'WORLD_SIZE', localRank: ['LOCAL_RANK'], localSize: ['LOCAL_WORLD_SIZE']},
  MPICH: {
    rank: 'PMI_RANK',
    size: 'PMI_SIZE',
    localRank: ['MPI_LOCALRANKID', 'SLURM_LOCALID'],
    localSize: ['MPI_LOCALNRANKS'],
  },
  'Open MPI': {
    rank: 'OMPI_COMM_WORLD_RANK',
    size: 'OMPI_COMM_WORLD_SIZE',
    localRank: ['OMPI_COMM_WORLD_LOCAL_RANK'],
    localSize: ['OMPI_COMM_WORLD_LOCAL_SIZE'],
  },
  Slurm: {rank: 'SLURM_PROCID', size: 'SLURM_STEP_NUM_TASKS', localRank: ['SLURM_LOCALID'], localSize: []},
};

/** The place of this process, or null if no launcher started it. */
export function findPlace(environment: NodeJS.ProcessEnv): Place | null {
  for (const [launcher, names] of Object.entries(LAUNCHERS) as [Launcher, Variables][]) {
    if (environment[names.rank] === undefined || environment[names.size] === undefined) continue;
    const read = (name: string): number => numberOf(environment, name, launcher);
    const first = (all: readonly string[]): number | undefined => {
      const name = all.find((each) => environment[each] !== undefined);
      return name === undefined ? undefined : read(name);
    };
    const [rank, size] = [read(names.rank), read(names.size)];
    if (rank >= size) {
      const got = `${names.rank}=${rank} and ${names.size}=${size}`;
      fail('init', `${launcher} must give a rank below the number of processes`, got, 'Correct the environment.');
    }
    return {launcher, rank, size, localRank: first(names.localRank) ?? 0, localSize: first(names.localSize)};
  }
  return null;
}

function numberOf(environment: NodeJS.ProcessEnv, name: string, launcher: Launcher): number {
  const text = environment[name]!;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  return fail('init', `${name}, which ${launcher} sets, must be a whole number`, describe(text), `Unset ${name}.`);
}
