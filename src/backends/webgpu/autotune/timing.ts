/**
 * @file Times GPU work by the wall clock. It takes the best of several batches, since other programs can only slow a
 * batch down.
 */
import {submitRecorded, type WebGPUBackend} from '../run/tfjs_backend.js';

/**
 * Milliseconds that a batch should take, so that the clock's resolution and the overhead of a submission do not matter.
 */
const BATCH_MS = 150;
const BATCHES = 4;
const WARM_UPS = 3;
const MOST_RUNS_PER_BATCH = 20;
/** A run that takes this many milliseconds is timed well enough without a batch. */
const LONG_MS = 500;

export interface Timing {
  /** Milliseconds of the first run, which compiles the shaders. */
  firstMs: number;
  /** Milliseconds of one later run. */
  ms: number;
}

/** Times `run`, which records work on `backend`. */
export async function timeRuns(backend: WebGPUBackend, run: () => void): Promise<Timing> {
  const batch = async (runs: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < runs; i++) run();
    submitRecorded(backend);
    await backend.queue.onSubmittedWorkDone();
    return (performance.now() - start) / runs;
  };
  const firstMs = await batch(1);
  let ms = Infinity;
  for (let i = 0; i < WARM_UPS; i++) {
    ms = Math.min(ms, await batch(1));
    if (ms > LONG_MS) return {firstMs, ms};
  }
  const runs = Math.max(1, Math.min(MOST_RUNS_PER_BATCH, Math.round(BATCH_MS / ms)));
  for (let i = 0; i < BATCHES; i++) ms = Math.min(ms, await batch(runs));
  return {firstMs, ms};
}
