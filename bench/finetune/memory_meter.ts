/** @file How much memory training takes: of an NVIDIA GPU by the device, on WebGPU by the buffers, on CPUs by the tensors. */
import {execFileSync} from 'node:child_process';
import * as tf from '@tensorflow/tfjs';
import type {Device} from '../../examples/finetune/device.js';
import {peakBytes} from '../../examples/finetune/memory.js';

export interface MemoryMeter {
  /** What counts. */
  by: string;
  /** Bytes held now. */
  held(): number;
  /** The most bytes that are held in `work`, which has been done before and is done again where that is needed to know. */
  peakOf(work: () => Promise<unknown>): Promise<number>;
}

/**
 * The meter of a device.
 *
 * @param others Bytes that were used on the NVIDIA GPU before this process, null where there is none.
 */
export function memoryMeter(device: Device, others: number | null): MemoryMeter {
  if (tf.getBackend() === 'tensorflow' && device.gpu && others !== null) return nvidiaMeter(others);
  const pool = (tf.backend() as {bufferManager?: {numBytesUsed: number}}).bufferManager;
  const held = (): number => pool?.numBytesUsed ?? tf.memory().numBytes;
  return {
    by: pool === undefined ? 'tensors' : 'GPU buffers',
    held,
    async peakOf(work) {
      const before = held();
      const more = await peakBytes(async () => {
        await work();
      });
      return before + more;
    },
  };
}

/** What the process took of the device. It gives nothing back, so that lengths must be measured from short to long. */
function nvidiaMeter(others: number): MemoryMeter {
  const held = (): number => nvidiaMemory()! - others;
  return {by: 'nvidia-smi', held, peakOf: () => Promise.resolve(held())};
}

/** Bytes used on the first GPU, or null without nvidia-smi. */
export function nvidiaMemory(): number | null {
  const mebibytes = nvidiaSmi('memory.used');
  return mebibytes === null ? null : 2 ** 20 * Number(mebibytes);
}

/** One value of the first GPU, or null without nvidia-smi. */
export function nvidiaSmi(query: string): string | null {
  const args = [`--query-gpu=${query}`, '--format=csv,noheader,nounits'];
  try {
    const text = execFileSync('nvidia-smi', args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore']});
    return text.split('\n')[0].trim();
  } catch {
    return null;
  }
}
