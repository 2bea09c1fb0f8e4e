/** @file Runs programs, and ends them together with this process when the user ends the command. */
import {type ChildProcess, spawn} from 'node:child_process';

/** How a program ended. */
export interface Finished {
  /** Exit code; null if a signal ended it or it could not start. */
  code: number | null;
  stdout: string;
  stderr: string;
  /** Why it could not start or end by itself: `ENOENT` if there is no such program, `timeout`. */
  failure?: string;
  signal?: NodeJS.Signals | null;
}

export interface RunOptions {
  cwd?: string;
  /** Added to this process's environment. */
  env?: NodeJS.ProcessEnv;
  /** Kills the program after this time; `failure` is then 'timeout'. Default: never. */
  timeoutMs?: number;
  /** Called with each piece of standard output. */
  onOutput?: (text: string) => void;
}

/** The longest time of a timer. */
const NEVER_MS = 2 ** 31 - 1;

const running = new Set<ChildProcess>();
const cleanups = new Set<() => void>();

/** Signals that end a command, with the usual exit codes. */
const SIGNALS = {SIGINT: 130, SIGTERM: 143, SIGHUP: 129} as const;

/** Ends running programs and this process at a signal, after all cleanups, until the function returned is called. */
export function endOnSignals(): () => void {
  const end = (signal: NodeJS.Signals): void => {
    running.forEach((child) => child.kill(signal));
    cleanups.forEach((cleanup) => {
      cleanup();
    });
    process.exit(SIGNALS[signal as keyof typeof SIGNALS]);
  };
  const signals = Object.keys(SIGNALS) as NodeJS.Signals[];
  signals.forEach((signal) => process.once(signal, end));
  return () => {
    signals.forEach((signal) => process.removeListener(signal, end));
  };
}

/** Calls `cleanup` when a signal ends the command, until the function returned is called. */
export function onInterrupt(cleanup: () => void): () => void {
  cleanups.add(cleanup);
  return () => {
    cleanups.delete(cleanup);
  };
}

/** Runs a program to its end. Never rejects: `failure` tells that a program could not start, or ran too long. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
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
    let failure: string | undefined;
    const timer = setTimeout(() => {
      failure = 'timeout';
      child.kill('SIGKILL');
      // A process that it started may hold its output open.
      child.stdout.destroy();
      child.stderr.destroy();
    }, options.timeoutMs ?? NEVER_MS);
    timer.unref();
    child.once('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      end({failure: error.code ?? error.message});
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      end({code, signal, ...(failure !== undefined && {failure})});
    });
  });
}
