/** @file Runs programs, and ends with them when the user ends the command. */
import {type ChildProcess, spawn} from 'node:child_process';

/** How a program ended. */
export interface Finished {
  /** Exit code; null where a signal ended it or it could not start. */
  code: number | null;
  stdout: string;
  stderr: string;
  /** Why it could not start: `ENOENT` where there is no such program. */
  failure?: string;
  signal?: NodeJS.Signals | null;
}

export interface RunOptions {
  cwd?: string;
  /** Added to this process's environment. */
  env?: NodeJS.ProcessEnv;
  /** Called with each piece of standard output. */
  onOutput?: (text: string) => void;
}

const running = new Set<ChildProcess>();
const cleanups = new Set<() => void>();
let watching = false;

function watchSignals(): void {
  if (watching) {
    return;
  }
  watching = true;
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    process.once(signal, () => {
      running.forEach((child) => child.kill(signal));
      cleanups.forEach((cleanup) => {
        cleanup();
      });
      process.exit(code);
    });
  }
}

/** Calls `cleanup` when a signal ends this process, until the function returned is called. */
export function onInterrupt(cleanup: () => void): () => void {
  watchSignals();
  cleanups.add(cleanup);
  return () => {
    cleanups.delete(cleanup);
  };
}

/** Runs a program to its end. Never rejects: a program that cannot start is an answer too. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  watchSignals();
  return new Promise((resolve) => {
    const env = {...process.env, ...options.env};
    const child = spawn(command, args, {cwd: options.cwd, env, stdio: ['ignore', 'pipe', 'pipe']});
    running.add(child);
    const finished: Finished = {code: null, stdout: '', stderr: ''};
    child.stdout.on('data', (data: Buffer) => {
      finished.stdout += data.toString();
      options.onOutput?.(data.toString());
    });
    child.stderr.on('data', (data: Buffer) => (finished.stderr += data.toString()));
    const end = (how: Partial<Finished>) => {
      running.delete(child);
      resolve({...finished, ...how});
    };
    child.once('error', (error: NodeJS.ErrnoException) => {
      end({failure: error.code ?? error.message});
    });
    child.once('close', (code, signal) => {
      end({code, signal});
    });
  });
}
