/** @file Runs a program in several processes: on MPICH, as mpiexec does, or alone, as torchrun does. */
import {type ChildProcess, spawn} from 'node:child_process';
import {closeSync, existsSync, openSync, readFileSync} from 'node:fs';
import {join, resolve as resolvePath} from 'node:path';
import {root, temporaryFolder} from './packed_project.js';

/** How a process ended, and what it printed. */
export interface Rank {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

interface Programs {
  ranks: number;
  /** A file, relative to the repository, and its arguments. */
  program: string;
  args?: string[];
  env?: NodeJS.ProcessEnv;
  /** Options of mpiexec. */
  options?: string[];
}

/** Ends processes that hang, long after every error that a test waits for. */
const LIMIT_MS = 240_000;

/**
 * The environment of programs on tfjs-node without a GPU. TensorFlow has one thread for operations, so that several
 * processes do not fight for the cores.
 */
const ENVIRONMENT: NodeJS.ProcessEnv = {
  CUDA_VISIBLE_DEVICES: '-1',
  TF_CPP_MIN_LOG_LEVEL: '3',
  OMP_NUM_THREADS: '1',
  FLASHMASK_NUM_THREADS: '1',
};

function environmentOf(env: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const own = Object.entries({...process.env, ...ENVIRONMENT, ...env}).filter(
    ([name]) => !/^(PMI|MPI|OMPI)/.test(name),
  );
  return Object.fromEntries(own);
}

/**
 * Keeps mpiexec from seeing the end of a rank, upon which it would kill the others: a shell outlives each rank until
 * all have ended.
 */
const SHELL = `
own="$FOLDER/\${PMI_RANK:-$OMPI_COMM_WORLD_RANK}"
"$@" >"$own.out" 2>"$own.err"
echo $? >"$own.part" && mv "$own.part" "$own.code"
rank=0
while [ $rank -lt $RANKS ]; do
  if [ -e "$FOLDER/$rank.code" ]; then rank=$((rank + 1)); else sleep 0.05; fi
done
`;

/** A shell's exit code of a process that a signal ended is this and the signal's number. */
const SIGNALLED = 128;
const SIGNALS: Record<number, NodeJS.Signals> = {6: 'SIGABRT', 9: 'SIGKILL', 11: 'SIGSEGV', 15: 'SIGTERM'};

/** Runs a program on MPICH, or on Open MPI with its own options. A rank that ends takes no other with it. */
export async function runOnMpi(mpi: string, {options = [], ranks, program, args = [], env}: Programs): Promise<Rank[]> {
  const folder = temporaryFolder();
  const command = [process.execPath, '--import=tsx', resolvePath(root, program), ...args];
  const child = spawn(
    join(mpi, 'bin', 'mpiexec'),
    [...options, '-n', String(ranks), 'sh', '-c', SHELL, 'sh', ...command],
    {
      cwd: root,
      env: {...environmentOf(env), FOLDER: folder, RANKS: String(ranks)},
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    },
  );
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text: Buffer) => (said += text.toString()));
  await ended(child, () => process.kill(-child.pid!, 'SIGKILL'));
  return Array.from({length: ranks}, (_, rank) => {
    const read = (name: string): string => {
      const path = join(folder, `${rank}.${name}`);
      return existsSync(path) ? readFileSync(path, 'utf8') : '';
    };
    const code = Number(read('code') || NaN);
    const signal = code > SIGNALLED ? SIGNALS[code - SIGNALLED] : null;
    return {code: signal || Number.isNaN(code) ? null : code, signal, stdout: read('out'), stderr: read('err') + said};
  });
}

interface ProgramsAlone extends Omit<Programs, 'env' | 'options'> {
  env?: (rank: number) => NodeJS.ProcessEnv;
}

/** Runs a program in processes that know of each other by torchrun's variables. */
export async function runAlone({ranks, program, args = [], env}: ProgramsAlone): Promise<Rank[]> {
  const folder = temporaryFolder();
  const command = ['--import=tsx', resolvePath(root, program), ...args];
  return Promise.all(
    Array.from({length: ranks}, async (_, rank) => {
      const paths = ['out', 'err'].map((name) => join(folder, `${rank}.${name}`));
      const files = paths.map((path) => openSync(path, 'w'));
      const place = {RANK: String(rank), WORLD_SIZE: String(ranks), LOCAL_RANK: String(rank)};
      const child = spawn(process.execPath, command, {
        cwd: root,
        env: {...environmentOf(env?.(rank)), ...place},
        stdio: ['ignore', ...files],
      });
      files.forEach(closeSync);
      const end = await ended(child, () => child.kill('SIGKILL'));
      const [stdout, stderr] = paths.map((path) => readFileSync(path, 'utf8'));
      return {...end, stdout, stderr};
    }),
  );
}

function ended(child: ChildProcess, kill: () => void): Promise<Pick<Rank, 'code' | 'signal'>> {
  const limit = setTimeout(kill, LIMIT_MS);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      clearTimeout(limit);
      resolve({code, signal});
    });
  });
}
