/** @file The parent's side of a measuring process: starts it, asks it for lengths, and outlives its end. */
import {type ChildProcess, fork} from 'node:child_process';
import type {Answer, ChildOptions, Question} from './child.js';
import {type Figures, type Outcome, type StepRecord, outcomeOf} from './records.js';

export interface MeasurerOptions extends ChildOptions {
  /** Name of the device in the records; else as the child tells it. */
  machine?: string;
  /** Seconds that one measurement may take, the start of its process included. */
  timeout: number;
  /** When no measurement may run any more, by `performance.now()`. */
  deadline: number;
}

/** How a measurement ended. */
type End = {figures: Figures} | {outcome: Outcome; reason: string};

/** Characters of what a process wrote last that are kept. */
const TAIL = 8192;

/**
 * Measures lengths of one subject. The process is started anew after a failure, for a shorter length than the last one, and always on
 * WebGPU: whose pool keeps all buffers that there ever were, as the memory of an NVIDIA GPU keeps its highest level.
 */
export class Measurer {
  private child: ChildProcess | null = null;
  private device: string;
  private lastN = 0;
  private tail = '';
  /** The shortest length that failed: longer ones are not started. */
  private failed: StepRecord | null = null;
  private readonly known = new Map<number, StepRecord>();

  constructor(private readonly options: MeasurerOptions) {
    this.device = options.machine ?? 'unknown';
  }

  /** Measures a length, once. */
  async measure(N: number): Promise<StepRecord> {
    const record = this.known.get(N) ?? (await this.attempt(N));
    this.known.set(N, record);
    return record;
  }

  private async attempt(N: number): Promise<StepRecord> {
    const {failed} = this;
    if (failed !== null && N > failed.N) {
      return this.record(N, 0, {outcome: failed.outcome, reason: `so ended N ${failed.N}`});
    }
    const start = performance.now();
    const left = this.options.deadline - start;
    if (left <= 0) return this.record(N, 0, {outcome: 'not run', reason: 'the minutes are over'});
    if (this.options.backend === 'webgpu' || N < this.lastN) await this.stop();
    this.lastN = N;
    const end = await this.ask({N}, Math.min(1000 * this.options.timeout, left));
    const record = this.record(N, (performance.now() - start) / 1000, end);
    if (record.outcome !== 'done') {
      this.failed = record;
      await this.stop();
    }
    return record;
  }

  /** Ends the process, and waits until its memory is free. */
  async stop(): Promise<void> {
    const {child} = this;
    this.child = null;
    this.lastN = 0;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    await new Promise((resolve) => {
      child.once('exit', resolve);
      // Dawn may hang at an orderly exit.
      child.kill('SIGKILL');
    });
  }

  private ask(question: Question, milliseconds: number): Promise<End> {
    this.child ??= this.start();
    const {child} = this;
    return new Promise((resolve) => {
      const finish = (end: End): void => {
        clearTimeout(timer);
        child.removeAllListeners();
        resolve(end);
      };
      const timer = setTimeout(() => {
        finish({outcome: 'time limit', reason: `${(milliseconds / 1000).toFixed(0)} s`});
      }, milliseconds);
      child.on('message', (answer: Answer) => {
        if ('device' in answer) this.device = this.options.machine ?? answer.device;
        else if ('figures' in answer) finish(answer);
        else finish({outcome: outcomeOf(answer.error, null), reason: shorten(answer.error)});
      });
      child.on('error', ({message}) => finish({outcome: 'failed', reason: message}));
      // 'close' comes after all that the process wrote.
      child.on('close', (code, signal) => {
        const reason = `ended by ${signal ?? `code ${code}`}: ${shorten(lastLines(this.tail))}`;
        finish({outcome: outcomeOf(this.tail, signal), reason});
      });
      child.send(question);
    });
  }

  private start(): ChildProcess {
    // Takes of the device what a step needs and no more, so that nvidia-smi counts it.
    const memory = {TF_GPU_ALLOCATOR: 'cuda_malloc_async', TF_FORCE_GPU_ALLOW_GROWTH: 'true'};
    const child = fork(process.argv[1], ['--child', JSON.stringify(this.options)], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      env: {...process.env, TF_CPP_MIN_LOG_LEVEL: '2', ...memory},
    });
    this.tail = '';
    child.stderr!.on('data', (text: Buffer) => (this.tail = (this.tail + text.toString()).slice(-TAIL)));
    return child;
  }

  private record(N: number, seconds: number, end: End): StepRecord {
    const {backend, model, task, attention, keepActivations} = this.options;
    const call = {backend, device: this.device, model, task, attention, N, keepActivations};
    const result = 'figures' in end ? {outcome: 'done' as const, ...end.figures} : end;
    return {...call, ...result, seconds};
  }
}

function lastLines(text: string): string {
  return text.trim().split('\n').slice(-3).join(' ');
}

function shorten(text: string): string {
  return text.replace(/\s+/g, ' ').slice(0, 200);
}
