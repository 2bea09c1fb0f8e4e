/**
 * @file The suite `finetune`: the cost of a training step of the example application, with flashMaskAttention and with
 * dense masked attention: tokens/s, peak memory, and the longest row that each can train. Models have real shapes and
 * random weights.
 *
 * Each measurement runs in its own process. TensorFlow may abort when memory runs out; that is then a result and does
 * not end the suite. Once a length has failed, longer ones are not started.
 */
import type {Dtype} from '../../examples/finetune/commands/train_options.js';
import type {BackendName} from '../../examples/finetune/device.js';
import type {AttentionKind} from '../../examples/finetune/train/attention.js';
import {nvidiaName} from '../backend.js';
import {inOwnProcess} from '../child.js';
import {longest} from '../finetune/longest.js';
import {keepsInTorch, stepsOfTorch, whyNoTorch} from '../finetune/torch.js';
import type {ModelName} from '../finetune/models.js';
import type {Task} from '../finetune/rows.js';
import type {StepOptions} from '../finetune/step.js';
import type {BenchRecord, Call, Emit, Figures} from '../record.js';

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
  xla: boolean;
  dtype: Dtype;
  /** Seconds that a measurement may take, including the start of its process. */
  timeout: number;
  /** Minutes after which no measurement starts. */
  minutes: number;
  machine?: string;
  /** A Python, and whether to measure its PyTorch's steps. */
  python: string;
  torch: boolean;
}

/** Dense comes first, because flash is also measured at the longest row that dense can train. */
export const ATTENTIONS: AttentionKind[] = ['dense', 'flash'];

type Subject = Pick<StepOptions, 'model' | 'task'> & Pick<BenchRecord, 'attention'>;

/** Measures a length, within so many ms. */
interface Measurement {
  /** The fields of the record that are known before. */
  call: (N: number) => Call;
  run: (N: number, milliseconds: number) => Promise<Figures>;
}

/** Measures lengths of one subject, each once. */
class Lengths {
  private readonly known = new Map<number, BenchRecord>();
  /** The shortest length that failed. */
  private failed?: BenchRecord;

  constructor(
    private readonly measurement: Measurement,
    private readonly timeout: number,
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
    const call = this.measurement.call(N);
    const start = performance.now();
    const left = this.deadline - start;
    if (this.failed && N > this.failed.N!) {
      return {...call, outcome: this.failed.outcome, reason: `so ended N ${this.failed.N}`, seconds: 0};
    }
    if (left <= 0) return {...call, outcome: 'not run', reason: 'the minutes are over', seconds: 0};
    const figures = await this.measurement.run(N, Math.min(1000 * this.timeout, left));
    return {...call, ...figures, seconds: (performance.now() - start) / 1000};
  }
}

/** Our own steps. */
function ownSteps(subject: Subject & Pick<StepOptions, 'attention'>, options: FinetuneOptions): Measurement {
  const {backend, keepActivations, eager, xla, dtype, steps, seconds, machine} = options;
  const how = {...(eager && {eager}), ...(xla && {xla}), ...(dtype !== 'float32' && {dtype})};
  const device = machine ?? 'unknown';
  return {
    call: (N) => ({suite: 'finetune', backend, device, ...subject, N, keepActivations, ...how}),
    async run(N, milliseconds) {
      const own: StepOptions = {...subject, N, keepActivations, backend, eager, xla, dtype, steps, seconds};
      const figures = await inOwnProcess<Figures & {device: string}>('step', own, milliseconds);
      return machine === undefined ? figures : {...figures, device: machine};
    },
  };
}

/** PyTorch's steps of the same model, on the device that ours ran on. */
function torchSteps(subject: Subject, device: string, options: FinetuneOptions): Measurement {
  const {dtype} = options;
  const fields = {suite: 'finetune', backend: 'torch', device, ...subject, attention: 'sdpa'} as const;
  return {
    call: (N) => ({...fields, N, keepActivations: keepsInTorch(N), ...(dtype !== 'float32' && {dtype})}),
    run: (N, milliseconds) => stepsOfTorch(options.python, {...subject, N, ...options}, milliseconds),
  };
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
  const machine = options.machine ?? (options.backend === 'tensorflow' ? (nvidiaName() ?? undefined) : undefined);
  const torch = canRunTorch(options);
  let device = machine ?? 'unknown';
  for (const model of options.models) {
    for (const task of options.tasks) {
      let {lengths} = options;
      const lengthsOf = (measurement: Measurement): Lengths =>
        new Lengths(measurement, options.timeout, deadline, (record) => {
          ({device} = record);
          emit(record);
        });
      for (const attention of options.attention) {
        const subject = lengthsOf(ownSteps({model, task, attention}, {...options, machine}));
        const best = await longestOf(subject, lengths, options);
        lengths = [...new Set(best === 0 ? lengths : [...lengths, best])];
      }
      if (torch && (task === 'sft' || task === 'lora')) {
        const subject = lengthsOf(torchSteps({model, task}, device, options));
        await longestOf(subject, lengths, {...options, longest: false});
      }
    }
  }
}

/** Whether PyTorch's steps can be measured. If they cannot, it says why. */
function canRunTorch({backend, torch, python}: FinetuneOptions): boolean {
  if (!torch || backend !== 'tensorflow') return false;
  const why = whyNoTorch(python);
  if (why !== null) {
    console.log(`Without PyTorch: ${python} must have torch, transformers and peft, got '${why}'. Give --python.`);
  }
  return why === null;
}
