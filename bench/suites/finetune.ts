/**
 * @file The suite `finetune`: the cost of a training step of the example application, with flashMaskAttention and with
 * dense masked attention: tokens/s, peak memory, and the longest row that each can train. Models have real shapes and
 * random weights.
 *
 * Each measurement runs in its own process. TensorFlow may abort when memory runs out; that is then a result and does
 * not end the suite. Once a length has failed, longer ones are not started.
 */
import type {BackendName} from '../../examples/finetune/device.js';
import type {AttentionKind} from '../../examples/finetune/train/attention.js';
import {nvidiaSmi} from '../backend.js';
import {inOwnProcess} from '../child.js';
import {longest} from '../finetune/longest.js';
import type {ModelName} from '../finetune/models.js';
import type {Task} from '../finetune/rows.js';
import type {StepOptions} from '../finetune/step.js';
import type {BenchRecord, Emit, Figures} from '../record.js';

interface FinetuneOptions {
  backend: BackendName;
  models: ModelName[];
  tasks: Task[];
  attention: AttentionKind[];
  lengths: number[];
  steps: number;
  seconds: number;
  /** Whether to look for the longest row. */
  longest?: boolean;
  longestUpTo: number;
  bisections: number;
  keepActivations: boolean;
  eager: boolean;
  /** Seconds that a measurement may take, including the start of its process. */
  timeout: number;
  /** Minutes after which no measurement starts. */
  minutes: number;
  machine?: string;
}

/** Dense comes first, because flash is also measured at the longest row that dense can train. */
export const ATTENTIONS: AttentionKind[] = ['dense', 'flash'];

type Subject = Pick<StepOptions, 'model' | 'task' | 'attention'>;

/** Measures lengths of one subject, each once. */
class Lengths {
  private readonly known = new Map<number, BenchRecord>();
  /** The shortest length that failed. */
  private failed?: BenchRecord;

  constructor(
    private readonly subject: Subject,
    private readonly options: FinetuneOptions,
    private readonly deadline: number,
    private readonly emit: Emit,
  ) {}

  /** Whether a step of N tokens works; null if that cannot be told. */
  async works(N: number): Promise<boolean | null> {
    let record = this.known.get(N);
    if (!record) {
      record = await this.measure(N);
      this.known.set(N, record);
      if (record.outcome !== undefined && N < (this.failed?.N ?? Infinity)) this.failed = record;
      this.emit(record);
    }
    return record.outcome === undefined ? true : record.outcome === 'out of memory' ? false : null;
  }

  private async measure(N: number): Promise<BenchRecord> {
    const {backend, keepActivations, eager, steps, seconds, timeout, machine} = this.options;
    const step = {...this.subject, N, keepActivations};
    const call = {suite: 'finetune', backend, device: machine ?? 'unknown', ...step, ...(eager && {eager})} as const;
    const start = performance.now();
    const left = this.deadline - start;
    if (this.failed && N > this.failed.N) {
      return {...call, outcome: this.failed.outcome, reason: `so ended N ${this.failed.N}`, seconds: 0};
    }
    if (left <= 0) return {...call, outcome: 'not run', reason: 'the minutes are over', seconds: 0};
    const own: StepOptions = {...step, backend, eager, steps, seconds};
    const figures = await inOwnProcess<Figures & {device: string}>('step', own, Math.min(1000 * timeout, left));
    const named = machine === undefined ? {} : {device: machine};
    return {...call, ...figures, ...named, seconds: (performance.now() - start) / 1000};
  }
}

/** Tries the lengths and, on request, others. Returns the longest that works, 0 if none. */
async function longestOf(subject: Lengths, lengths: readonly number[], options: FinetuneOptions): Promise<number> {
  let best = 0;
  for (const N of [...lengths].sort((a, b) => a - b)) {
    if ((await subject.works(N)) === true) best = N;
  }
  if (!options.longest) return best;
  const {longestUpTo: upTo, bisections} = options;
  return longest((N) => subject.works(N), {from: best === 0 ? Math.min(...lengths) : best, upTo, bisections});
}

export async function runFinetune(options: FinetuneOptions, emit: Emit): Promise<void> {
  const deadline = performance.now() + 60000 * options.minutes;
  const machine = options.machine ?? (options.backend === 'tensorflow' ? (nvidiaSmi('name') ?? undefined) : undefined);
  for (const model of options.models) {
    for (const task of options.tasks) {
      let {lengths} = options;
      for (const attention of options.attention) {
        const subject = new Lengths({model, task, attention}, {...options, machine}, deadline, emit);
        const best = await longestOf(subject, lengths, options);
        lengths = [...new Set(best === 0 ? lengths : [...lengths, best])];
      }
    }
  }
}
