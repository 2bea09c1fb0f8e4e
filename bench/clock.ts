/** @file The clock of all benchmarks: wall time from an idle device until it has finished the work. */
import * as tf from '@tensorflow/tfjs-core';
import {peakBytes} from '../examples/finetune/memory.js';
import {submitRecorded, type WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';

/** Waits until the device has finished all work. */
export async function settle(): Promise<void> {
  if (tf.getBackend() === 'webgpu') {
    const backend = tf.backend() as unknown as WebGPUBackend;
    submitRecorded(backend);
    await backend.queue.onSubmittedWorkDone();
  } else if (tf.getBackend() === 'tensorflow') {
    // On a GPU a read waits for all earlier work on TensorFlow's stream.
    await readOne();
  }
}

/** Computes a number and reads it. Throws a device error that happened earlier. */
export async function readOne(): Promise<void> {
  const one = tf.tidy(() => tf.add(tf.scalar(1), 1));
  try {
    await one.data();
  } finally {
    one.dispose();
  }
}

/** Runs `work` once. Returns its result and its milliseconds. */
export async function once<T>(work: () => T | Promise<T>): Promise<[result: T, ms: number]> {
  await settle();
  const start = performance.now();
  const result = await work();
  await settle();
  return [result, performance.now() - start];
}

/** Repeats `measure` for so many seconds or times, but at least once. Returns the values in ascending order. */
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

/** A batch fills this many milliseconds. The one wait at its end then costs next to nothing. */
const BATCH_MS = 100;
/** An idle GPU needs about half a second of work to clock up. */
const WARM_UP_SECONDS = 0.5;

/** Times `run` for `seconds`, after a warm-up of the same length but at most half a second. Disposes its tensors. */
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

/** Reads one value of each result of `run` and disposes them, so that a device error throws here and is not timed. */
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

/** The most bytes that `run` holds at once, beyond those held before. */
export async function peakBytesOf(run: () => tf.Tensor[]): Promise<number> {
  await settle();
  return peakBytes(async () => {
    tf.dispose(run());
    await settle();
  });
}
