/** @file What the fine-tuning benchmark records of a length, and how a failure is told from another. */
import type {AttentionKind} from '../../examples/finetune/train/attention.js';
import type {ModelName} from './models.js';
import type {Task} from './rows.js';

/** One model in one kind of training with one attention: what a process measures at several lengths. */
export interface Subject {
  model: ModelName;
  task: Task;
  attention: AttentionKind;
}

/** What a process measured of training steps on a row of N tokens. Times in milliseconds. */
export interface Figures {
  /** Questions or documents of the row. */
  texts: number;
  /** Fraction of the pairs of a query and a key that are masked. */
  masked: number;
  /** The first step: it compiles shaders and loads kernels. */
  firstMs: number;
  /** Steps after it. */
  steps: number;
  medianMs: number;
  bestMs: number;
  /**
   * Of those, making dense attention's masks: not counted in `tokensPerSecond`, in favour of dense attention. 0 for flashMaskAttention,
   * whose masks are counted.
   */
  maskMs: number;
  /** By the median. */
  tokensPerSecond: number;
  /** Held before the first step: weights, optimizer, and on a GPU what the libraries take. */
  heldBytes: number;
  /** The most that was held in a step, `heldBytes` included. */
  peakBytes: number;
  /** What counted them. */
  memoryBy: string;
  /** Of the process, on CPUs. */
  residentBytes?: number;
  /** Of the first step, to compare: the learning rate is 0. */
  loss: number;
  gradNorm: number;
}

export type Outcome = 'done' | 'out of memory' | 'time limit' | 'failed' | 'not run';

/** One line of the JSON lines file. */
export interface StepRecord extends Subject, Partial<Figures> {
  backend: string;
  device: string;
  N: number;
  keepActivations: boolean;
  outcome: Outcome;
  /** Why it is not 'done'. */
  reason?: string;
  /** Seconds that it took in all, the start of its process included. */
  seconds: number;
}

/** Messages of allocators: TensorFlow's, CUDA's, Node's, and tfjs's on WebGPU, which refuses commands on buffers that were not made. */
const OUT_OF_MEMORY =
  /out of memory|OOM|RESOURCE_EXHAUSTED|ran out of|bad_alloc|failed to alloc|allocation failed|Invalid typed array length|Invalid array (buffer )?length|WebGPU refused|status 8\b/i;

/**
 * What an end of a measurement means.
 *
 * @param text The error, or the end of what an aborted process wrote.
 * @param signal That ended the process: SIGKILL is what Linux sends when memory is out.
 */
export function outcomeOf(text: string, signal: string | null): 'out of memory' | 'failed' {
  return signal === 'SIGKILL' || OUT_OF_MEMORY.test(text) ? 'out of memory' : 'failed';
}
