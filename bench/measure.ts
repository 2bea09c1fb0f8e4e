/** @file Milliseconds and peak bytes of a piece of tfjs work, on any backend. */
import * as tf from '@tensorflow/tfjs-core';
import {peakBytes} from '../examples/finetune/memory.js';
import {submitRecorded, type WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';

/** The backend, if its work runs on a WebGPU queue. */
function webgpu(): WebGPUBackend | null {
  return tf.getBackend() === 'webgpu' ? (tf.backend() as unknown as WebGPUBackend) : null;
}

/** Waits until the device has done all that was asked of it. */
export async function settle(): Promise<void> {
  const backend = webgpu();
  if (tf.getBackend() === 'tensorflow') {
    // On a GPU a read waits for all that TensorFlow's stream was given before it.
    const one = tf.tidy(() => tf.add(tf.scalar(1), 1));
    await one.data();
    one.dispose();
  }
  if (!backend) return;
  submitRecorded(backend);
  await backend.queue.onSubmittedWorkDone();
}

export interface TimeOptions {
  /** Seconds to spend, at least two runs after the first. */
  seconds: number;
  /** Seconds of runs before those, which do not count; none unless told. */
  warmUpSeconds?: number;
}

export interface Timing {
  /** First run: it compiles the shaders. */
  firstMs: number;
  /** Best mean of a batch of runs after it. */
  ms: number;
}

/** A batch fills this many milliseconds, so that one wait at its end costs nothing. */
const BATCH_MS = 100;

/** Times `run`, whose tensors are disposed. An idle GPU needs about half a second of work before it clocks up. */
export async function time(run: () => tf.Tensor[], {seconds, warmUpSeconds = 0}: TimeOptions): Promise<Timing> {
  const batch = async (repeats: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < repeats; i++) tf.dispose(run());
    await settle();
    return (performance.now() - start) / repeats;
  };
  const firstMs = await batch(1);
  let ms = await batch(1);
  const repeats = Math.max(1, Math.round(BATCH_MS / ms));
  const warm = performance.now() + 1000 * warmUpSeconds;
  while (performance.now() < warm) await batch(repeats);
  const end = performance.now() + 1000 * seconds;
  do ms = Math.min(ms, await batch(repeats));
  while (performance.now() < end);
  await surfaceErrors(run);
  return {firstMs, ms};
}

/** Reads a value of each result of `run`, and disposes them: an error of the device is thrown here rather than timed. */
export async function surfaceErrors(run: () => tf.Tensor[]): Promise<void> {
  const results = run();
  for (const result of results) {
    const corner = tf.slice(
      result,
      result.shape.map(() => 0),
      result.shape.map(() => 1),
    );
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
