/**
 * @file Runs a measurement in several processes that compute together. They are started as torchrun starts them, which
 * GPUs need, or by mpiexec, which CPUs need. Each writes its answers to a file; an exit without one is a result too.
 */
import {type ChildProcess, spawn} from 'node:child_process';
import {existsSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {findPlace} from '../src/distributed/launcher.js';
import {MEMORY_ENVIRONMENT, TAIL} from './child.js';
import {type Failure, failureOf, outcomeOf, shorten} from './failure.js';

interface Launch {
  ranks: number;
  /** The program that starts the processes. Default: each by itself. */
  mpiexec?: string;
  milliseconds: number;
}

/** How the processes ended. */
export interface Answered<T> {
  /** The last figures of each rank; null for one that gave none. */
  figures: (T | null)[];
  /** The first failure. */
  failure: Failure | null;
}

/** How long processes may go on after one of them has failed. */
const GRACE_MS = 15_000;
const FOLDER = 'FLASHMASK_BENCH_ANSWERS';

/** Runs `npm run bench -- rank` in several processes. They end when they have answered or after so many ms. */
export async function inRanks<T extends object>(options: object, launch: Launch): Promise<Answered<T>> {
  const folder = mkdtempSync(join(tmpdir(), 'flashmask-bench-'));
  const children = startAll(['rank', JSON.stringify(options)], launch, folder);
  // The processes of an mpiexec that is gone end by themselves.
  const killAll = (): void => children.forEach((child) => child.kill('SIGKILL'));
  let late = false;
  const endLate = (): void => {
    late = true;
    killAll();
  };
  const timers = [setTimeout(endLate, launch.milliseconds)];
  try {
    const ends = await Promise.all(
      children.map(async (child) => {
        const end = await endOf(child);
        if (end !== null) timers.push(setTimeout(killAll, GRACE_MS));
        return end;
      }),
    );
    const exits = ends.filter((end) => end !== null);
    const figures = Array.from({length: launch.ranks}, (_, rank) => read(fileOf(folder, rank, 'figures')) as T | null);
    const timeout: Failure = {outcome: 'time limit', reason: `${(launch.milliseconds / 1000).toFixed(0)} s`};
    return {figures, failure: firstFailure(folder, launch.ranks) ?? (late ? timeout : (exits[0] ?? null))};
  } finally {
    timers.forEach((timer) => clearTimeout(timer));
    rmSync(folder, {recursive: true, force: true});
  }
}

function startAll(args: string[], {ranks, mpiexec}: Launch, folder: string): ChildProcess[] {
  const command = [process.execPath, ...process.execArgv, process.argv[1], ...args];
  const env = {...process.env, TF_CPP_MIN_LOG_LEVEL: '2', ...MEMORY_ENVIRONMENT, [FOLDER]: folder};
  const start = ([program, ...rest]: string[], more: NodeJS.ProcessEnv): ChildProcess =>
    spawn(program, rest, {stdio: ['ignore', 'ignore', 'pipe'], env: {...env, ...more}});
  if (mpiexec !== undefined && ranks > 1) return [start([mpiexec, '-n', String(ranks), ...command], {})];
  return Array.from({length: ranks}, (_, rank) =>
    start(command, {
      RANK: String(rank),
      WORLD_SIZE: String(ranks),
      LOCAL_RANK: String(rank),
      LOCAL_WORLD_SIZE: String(ranks),
      FLASHMASK_RENDEZVOUS: join(folder, 'rendezvous'),
    }),
  );
}

/** Waits for the end of a process. Null if it ended well. */
function endOf(child: ChildProcess): Promise<Failure | null> {
  let tail = '';
  child.stderr!.on('data', (text: Buffer) => (tail = (tail + text.toString()).slice(-TAIL)));
  return new Promise((resolve) => {
    child.on('error', (error) => resolve(failureOf(error)));
    child.on('close', (code, signal) => {
      const last = tail.trim().split('\n').slice(-3).join(' ');
      const reason = shorten(`ended by ${signal ?? `code ${code}`}: ${last}`);
      resolve(code === 0 ? null : {outcome: outcomeOf(tail, signal), reason});
    });
  });
}

const fileOf = (folder: string, rank: number, kind: 'figures' | 'failure'): string =>
  join(folder, `${rank}.${kind}.json`);

const read = (path: string): object | null =>
  existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as object) : null;

/** The failure that came first: the others may follow from it. */
function firstFailure(folder: string, ranks: number): Failure | null {
  const paths = Array.from({length: ranks}, (_, rank) => fileOf(folder, rank, 'failure')).filter(existsSync);
  const [first] = paths.sort((a, b) => statSync(a).mtimeMs - statSync(b).mtimeMs);
  return first === undefined ? null : (read(first) as Failure);
}

/** Writes what this process measures, each time anew, to its parent's folder. A failure ends it. */
export async function answerAsRank(work: (emit: (figures: object) => void) => Promise<void>): Promise<void> {
  const folder = process.env[FOLDER]!;
  const rank = findPlace(process.env)?.rank ?? 0;
  const write = (kind: 'figures' | 'failure', content: object): void => {
    const path = fileOf(folder, rank, kind);
    writeFileSync(`${path}.tmp`, JSON.stringify(content));
    renameSync(`${path}.tmp`, path);
  };
  try {
    await work((figures) => write('figures', figures));
  } catch (error) {
    write('failure', failureOf(error));
    process.exitCode = 1;
  }
}
