/**
 * @file Runs a measurement in its own process. Its message is the result; an exit without a message is a result too.
 */
import {fork} from 'node:child_process';
import {failureOf, outcomeOf, shorten, type Failure} from './failure.js';

/** How many characters to keep of a process's last output. */
export const TAIL = 8192;

/** Makes TensorFlow take only the device memory that it needs, so that nvidia-smi counts it. */
export const MEMORY_ENVIRONMENT = {TF_GPU_ALLOCATOR: 'cuda_malloc_async', TF_FORCE_GPU_ALLOW_GROWTH: 'true'};

/** Runs `npm run bench -- child` in a child process. It ends when it answers or after so many ms. */
export function inOwnProcess<T extends object>(
  measurement: 'peak' | 'step',
  options: object,
  milliseconds = 2 ** 31 - 1,
): Promise<T | Failure> {
  const child = fork(process.argv[1], ['child', measurement, JSON.stringify(options)], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: {...process.env, TF_CPP_MIN_LOG_LEVEL: '2', ...MEMORY_ENVIRONMENT},
  });
  let tail = '';
  child.stderr!.on('data', (text: Buffer) => (tail = (tail + text.toString()).slice(-TAIL)));
  return new Promise((resolve) => {
    let result: T | Failure | undefined;
    const end = (how: T | Failure): void => {
      result ??= how;
      // Dawn may hang at an orderly exit.
      child.kill('SIGKILL');
    };
    const timer = setTimeout(() => {
      end({outcome: 'time limit', reason: `${(milliseconds / 1000).toFixed(0)} s`});
    }, milliseconds);
    child.on('message', (answer: T) => end(answer));
    child.on('error', (error) => end(failureOf(error)));
    // 'close' comes after the last output of the process. Its memory is free by then.
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const last = tail.trim().split('\n').slice(-3).join(' ');
      resolve(
        result ?? {outcome: outcomeOf(tail, signal), reason: shorten(`ended by ${signal ?? `code ${code}`}: ${last}`)},
      );
    });
  });
}

/** Sends the answer of this process to its parent. */
export async function answer(work: () => Promise<object>): Promise<void> {
  const result = await work().catch(failureOf);
  await new Promise((resolve) => process.send!(result, undefined, undefined, resolve));
}
