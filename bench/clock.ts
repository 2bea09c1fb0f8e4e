/** @file The clock of all benchmarks: wall time from an idle device until it has done what it was given. */
import * as tf from '@tensorflow/tfjs-core';
import {peakBytes} from '../examples/finetune/memory.js';
import {submitRecorded, type WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';

/** Waits until the device has done all that was asked of it. */
export async function settle(): Promise<void> {
  if (tf.getBackend() === 'webgpu') {
    const backend = tf.backend() as unknown as WebGPUBackend;
    submitRecorded(backend);
    await backend.queue.onSubmittedWorkDone();
  } else if (tf.getBackend() === 'tensorflow') {
    // On a GPU a read waits for all that TensorFlow's stream was given before it.
    await readOne();
  }
}

/** Computes a number and reads it. Throws an error of the device that came before. */
export async function readOne(): Promise<void> {
  const one = tf.tidy(() => tf.add(tf.scalar(1), 1));
  try {
    await one.data();
  } finally {
    one.dispose();
  }
}

/** Runs `work` once: its result and its milliseconds. */
export async function once<T>(work: () => T | Promise<T>): Promise<[result: T, ms: number]> {
  await settle();
  const start = performance.now();
  const result = await work();
  await settle();
  return [result, performance.now() - start];
}

/** What `measure` gives, again and again for so many seconds or times, at least once; from the least to the most. */
export async function repeat(
  measure: () => Promise<number>,
  {seconds, most = Infinity}: {seconds: number; most?: number},
): Promise<number[]> {
  const end = performance.now() + 1000 * seconds;
  const results: number[] = [];
  do results.push(await measure());
  while (results.length < most && performance.now() < end);
  return results.sort((a, b) => a - b);
}

interface Timing {
  /** First run: it compiles the shaders. */
  firstMs: number;
  /** Best mean of a batch of later runs. */
  ms: number;
}

/** A batch fills this many milliseconds, so that one wait at its end costs nothing. */
const BATCH_MS = 100;
/** An idle GPU needs about half a second of work to clock up. */
const WARM_UP_SECONDS = 0.5;

/** Times `run`, whose tensors are disposed, for `seconds` after as long a warm-up, which is half a second at most. */
export async function time(run: () => tf.Tensor[], seconds: number): Promise<Timing> {
  const warm = performance.now() + 1000 * Math.min(WARM_UP_SECONDS, seconds);
  const batch = async (repeats: number): Promise<number> => {
    const work = (): void => {
      for (let i = 0; i < repeats; i++) tf.dispose(run());
    };
    return (await once(work))[1] / repeats;
  };
  const firstMs = await batch(1);
  const second = await batch(1);
  const repeats = Math.max(1, Math.round(BATCH_MS / second));
  while (performance.now() < warm) await batch(repeats);
  const [best] = await repeat(() => batch(repeats), {seconds});
  await surfaceErrors(run);
  return {firstMs, ms: Math.min(best, second)};
}

/** Reads a value of each result of `run`, and disposes them: an error of the device is thrown here rather than timed. */
export async function surfaceErrors(run: () => tf.Tensor[]): Promise<void> {
  const results = run();
  for (const result of results) {
    const corner = tf.tidy(() => tf.slice(tf.reshape(result, [-1]), 0, 1));
    const [value] = await corner.data();
    if (!Number.isFinite(value)) throw new Error(`bench: a result must be finite, got ${String(value)}.`);
    corner.dispose();
  }
  tf.dispose(results);
}

/** Most bytes that `run` holds at once beyond what was held before. */
export async function peakBytesOf(run: () => tf.Tensor[]): Promise<number> {
  await settle();
  return peakBytes(async () => {
    tf.dispose(run());
    await settle();
  });
}
