/**
 * @file Runs the commands of examples/finetune in this process, which saves Node's start and compilation. Tests that
 * are about the process run them in their own process, as users do.
 */
import {type ChildProcess, spawn} from 'node:child_process';
import {createRequire} from 'node:module';
import {fileURLToPath, pathToFileURL} from 'node:url';
import * as tf from '@tensorflow/tfjs';
import {expect} from 'chai';
import {run} from '../../examples/finetune/command_line.js';
import {clearBoundsCache} from '../../src/entries/index.js';
import type {StopReason} from '../../examples/finetune/io.js';
import {type Surroundings, processTraces, within} from './in_process.js';

const MAIN = fileURLToPath(new URL('../../examples/finetune/main.ts', import.meta.url));
const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;

/** How a command ended, and its output. */
export interface Finished {
  /** Exit code; null if a signal ended the process. */
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface CommandOptions extends Surroundings {
  /** Gets the standard output so far after each new piece of it; `stop` acts like Ctrl-C, or another wish to stop. */
  onOutput?: (stdout: string, stop: (reason?: StopReason) => void) => void;
}

/** Everything that a command must restore or free in its process. */
function traces(): object {
  clearBoundsCache();
  return {
    tensors: tf.memory().numTensors,
    buffers: tf.memory().numDataBuffers,
    backend: tf.getBackend(),
    ...processTraces(),
  };
}

/** Runs a command in this process. Fails if it leaves a tensor, a listener or another backend behind. */
export async function command(args: readonly string[], options: CommandOptions = {}): Promise<Finished> {
  return within(options, async () => {
    const before = traces();
    const finished = await collect(args, options.onOutput);
    expect(traces(), `left behind by ${args.join(' ')}`).to.deep.equal(before);
    return finished;
  });
}

async function collect(args: readonly string[], onOutput: CommandOptions['onOutput'] = () => {}): Promise<Finished> {
  const written = {stdout: '', stderr: ''};
  const listeners = new Set<(reason: StopReason) => void>();
  const stop = (reason: StopReason = 'SIGINT'): void => {
    const called = [...listeners];
    listeners.clear();
    called.forEach((listener) => listener(reason));
  };
  const write = (text: string): void => {
    written.stdout += text;
    onOutput(written.stdout, stop);
  };
  const code = await run(args, {
    write,
    say: (line) => write(`${line}\n`),
    warn: (line) => void (written.stderr += `${line}\n`),
    terminal: null,
    onStop(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  });
  expect(listeners.size, 'listeners of wishes to stop').to.equal(0);
  return {code, ...written};
}

/** Starts a command in its own process. */
export function start(args: readonly string[], {cwd, env}: Surroundings = {}): ChildProcess {
  return spawn(process.execPath, [`--import=${TSX}`, MAIN, ...args], {
    cwd,
    env: {...process.env, ...env},
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** Environment in which Node runs a module before all others. */
export function preload(source: string): NodeJS.ProcessEnv {
  return {NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(source)}`};
}

/** Environment in which Node runs `code` right after each `line` that it prints, however busy the machine is. */
export function onEachLine(code: string): NodeJS.ProcessEnv {
  return preload(`const {log} = console; console.log = (line) => { log(line); ${code}; };`);
}

/** Sends Ctrl-C, or another wish to stop, once, as soon as the output includes a text. */
export function interruptAt(wanted: string, reason?: StopReason): NonNullable<CommandOptions['onOutput']> {
  let sent = false;
  return (stdout, stop) => {
    if (!sent && stdout.includes(wanted)) {
      sent = true;
      stop(reason);
    }
  };
}

/** Waits for the end of a process; `onOutput` gets the standard output so far after each new piece of it. */
export function finish(child: ChildProcess, onOutput: (stdout: string) => void = () => {}): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const written = {stdout: '', stderr: ''};
    child.stdout!.on('data', (text: Buffer) => onOutput((written.stdout += text.toString())));
    child.stderr!.on('data', (text: Buffer) => (written.stderr += text.toString()));
    child.on('error', reject);
    child.on('close', (code) => resolve({code, ...written}));
  });
}

/** Runs a command in this process that must succeed; returns its standard output. */
export async function succeeds(args: readonly string[], options?: CommandOptions): Promise<string> {
  const {code, stdout, stderr} = await command(args, options);
  expect(code, stderr + stdout).to.equal(0);
  return stdout;
}

/** Runs a command in this process, which must fail with a message and without a stack. */
export async function fails(message: RegExp, args: readonly string[], options?: CommandOptions): Promise<Finished> {
  const finished = await command(args, options);
  expect(finished.stderr, finished.stdout).to.match(message);
  expect(finished.stderr).to.not.match(/\n {4}at /);
  expect(finished.code).to.equal(1);
  return finished;
}
