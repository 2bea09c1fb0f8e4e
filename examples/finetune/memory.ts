/** @file Measures memory: what a piece of work takes at most. It runs in pages too. */
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
