/** @file Measures memory: what a piece of work takes at most, and what nvidia-smi says. */
import {execFileSync} from 'node:child_process';
import * as tf from '@tensorflow/tfjs';

interface Pool {
  numBytesUsed: number;
  acquireBuffer(...args: unknown[]): unknown;
}

/**
 * Runs `work` and returns the most memory that it held beyond what was held before. On webgpu this counts GPU buffers,
 * including those that wait for a submission: the memory that the device must have. On other backends it counts
 * tensors.
 */
export async function peakBytes(work: () => Promise<void>): Promise<number> {
  const pool = (tf.backend() as {bufferManager?: Pool}).bufferManager;
  if (pool === undefined) {
    const before = tf.memory().numBytes;
    return (await tf.profile(work)).peakBytes - before;
  }
  const before = pool.numBytesUsed;
  let peak = before;
  const acquire = pool.acquireBuffer.bind(pool);
  pool.acquireBuffer = (...args) => {
    const buffer = acquire(...args);
    peak = Math.max(peak, pool.numBytesUsed);
    return buffer;
  };
  try {
    await work();
  } finally {
    // Restores the method of the class.
    delete (pool as Partial<Pool>).acquireBuffer;
  }
  return peak - before;
}

/** A value of each NVIDIA GPU; empty without nvidia-smi. */
export function nvidiaSmi(query: string): string[] {
  const args = [`--query-gpu=${query}`, '--format=csv,noheader,nounits'];
  try {
    const text = execFileSync('nvidia-smi', args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore']});
    return text.trim().split('\n');
  } catch {
    return [];
  }
}
