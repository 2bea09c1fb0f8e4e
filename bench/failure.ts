/** @file Why a measurement gave no figures. */
import type {Outcome} from './record.js';

/** Out-of-memory messages of TensorFlow, CUDA, Node, and WebGPU, where commands name buffers that could not be made. */
const OUT_OF_MEMORY =
  /out of memory|OOM|RESOURCE_EXHAUSTED|ran out of|bad_alloc|failed to alloc|allocation failed|Invalid typed array length|Invalid array (buffer )?length|WebGPU refused|status 8\b/i;

/**
 * Tells how a measurement ended.
 *
 * @param text The error, or the last output of an aborted process.
 * @param signal The signal that ended the process. Linux sends SIGKILL when memory runs out.
 */
export function outcomeOf(text: string, signal: string | null = null): 'out of memory' | 'failed' {
  return signal === 'SIGKILL' || OUT_OF_MEMORY.test(text) ? 'out of memory' : 'failed';
}

/** Why a measurement gave no figures. */
export interface Failure {
  outcome: Outcome;
  reason: string;
}

export function failureOf(error: unknown): Failure {
  const message = error instanceof Error ? error.message : String(error);
  return {outcome: outcomeOf(message), reason: shorten(message)};
}

export const shorten = (text: string): string => text.replace(/\s+/g, ' ').trim().slice(0, 300);
