/** @file The measuring process: one model in one kind of training, a length at a time, as its parent asks for them. */
import * as tf from '@tensorflow/tfjs';
import {toBatch} from '../../examples/finetune/data/batch.js';
import type {Row} from '../../examples/finetune/data/sample.js';
import {type BackendName, type Device, startDevice} from '../../examples/finetune/device.js';
import {PROJECTIONS} from '../../examples/finetune/model/config.js';
import {AdamW} from '../../examples/finetune/train/adamw.js';
import {attentionOf} from '../../examples/finetune/train/attention.js';
import {dpoObjective} from '../../examples/finetune/train/objectives/dpo.js';
import type {Objective} from '../../examples/finetune/train/objectives/objective.js';
import {rmObjective} from '../../examples/finetune/train/objectives/rm.js';
import {sftObjective} from '../../examples/finetune/train/objectives/sft.js';
import {adapterOffReference} from '../../examples/finetune/train/reference.js';
import {TrainedModel} from '../../examples/finetune/train/trained_model.js';
import {type StepResult, Trainer} from '../../examples/finetune/train/trainer.js';
import {type MemoryMeter, memoryMeter, nvidiaMemory} from './memory_meter.js';
import {randomModel} from './models.js';
import type {Figures, Subject} from './records.js';
import {fillRow, typicalTexts, visiblePairs} from './rows.js';

export interface ChildOptions extends Subject {
  backend: BackendName;
  keepActivations: boolean;
  /** Timed steps after the first one. */
  steps: number;
  /** No further step is begun after so many seconds of timed ones. */
  seconds: number;
}

/** From the parent: measure this length. */
export interface Question {
  N: number;
}

/** To the parent. */
export type Answer = {device: string} | {figures: Figures} | {error: string};

/** The command line's defaults, see `examples/finetune/commands/train_options.ts`. */
const LORA = {rank: 8, alpha: 16, dropout: 0, targetModules: PROJECTIONS, useRslora: false};
const BETA = 0.1;

/** The optimizer does all of its work, and the weights stay what they are: every length and attention trains the same model. */
const RATE = 0;
const SEED = 5;

/** Answers its parent until that ends it. */
export function runChild(options: ChildOptions): void {
  let bench: Promise<Bench> | null = null;
  const answer = (message: Answer): void => void process.send!(message);
  process.on('message', ({N}: Question) => {
    bench ??= startBench(options, answer);
    bench
      .then((started) => started.measure(N))
      .then(
        (figures) => answer({figures}),
        (error: unknown) => answer({error: error instanceof Error ? error.message : String(error)}),
      );
  });
}

async function startBench(options: ChildOptions, answer: (message: Answer) => void): Promise<Bench> {
  // Before TensorFlow takes any.
  const others = options.backend === 'tensorflow' ? nvidiaMemory() : null;
  const device = await startDevice(options.backend);
  const {task, model: name, attention, keepActivations} = options;
  answer({device: device.description});
  const model = await TrainedModel.load(randomModel(name), {
    lora: task === 'sft' ? null : LORA,
    rewardModel: task === 'rm',
    seed: SEED,
    keepActivations,
  });
  const trainer = new Trainer(model, objectiveOf(options, model), new AdamW(model.trainable), attention);
  return new Bench(options, device, model, trainer, memoryMeter(device, others));
}

function objectiveOf({task, attention}: Subject, model: TrainedModel): Objective {
  switch (task) {
    case 'sft':
    case 'lora':
      return sftObjective;
    case 'dpo':
      return dpoObjective({beta: BETA, labelSmoothing: 0}, adapterOffReference(model, attention));
    case 'rm':
      return rmObjective(0);
  }
}

/** A model in training. */
class Bench {
  constructor(
    private readonly options: ChildOptions,
    private readonly device: Device,
    private readonly model: TrainedModel,
    private readonly trainer: Trainer,
    private readonly memory: MemoryMeter,
  ) {}

  async measure(N: number): Promise<Figures> {
    const {task} = this.options;
    const texts = typicalTexts(task, N, SEED);
    const row = fillRow(task, texts, this.model.config.vocabSize, SEED);
    const heldBytes = this.memory.held();
    const {loss, gradNorm, milliseconds: firstMs} = await this.step(row, N);
    const times = await this.times(row, N);
    // Last: tfjs's profile, which counts tensors, hides why a step failed.
    const peakBytes = await this.memory.peakOf(() => this.step(row, N));
    const maskMs = await this.maskMilliseconds(row, N);
    const medianMs = (times[(times.length - 1) >> 1] + times[times.length >> 1]) / 2;
    return {
      texts: texts.length,
      masked: 1 - visiblePairs(texts) / N ** 2,
      firstMs,
      steps: times.length,
      medianMs,
      bestMs: times[0],
      maskMs,
      tokensPerSecond: (1000 * N) / (medianMs - maskMs),
      heldBytes,
      peakBytes,
      memoryBy: this.memory.by,
      residentBytes: this.device.gpu ? undefined : 1024 * process.resourceUsage().maxRSS,
      loss,
      gradNorm,
    };
  }

  /** Milliseconds of the timed steps, from the shortest to the longest. */
  private async times(row: Row, N: number): Promise<number[]> {
    const {steps, seconds} = this.options;
    const times: number[] = [];
    const end = performance.now() + 1000 * seconds;
    do times.push((await this.step(row, N)).milliseconds);
    while (times.length < steps && performance.now() < end);
    return times.sort((a, b) => a - b);
  }

  /** A step on a new batch: what a batch costs on the host is paid in each step of a training. */
  private async step(row: Row, N: number): Promise<StepResult> {
    const batch = toBatch([row], N);
    try {
      const result = await this.trainer.step([batch], RATE);
      await this.device.check();
      return result;
    } finally {
      batch.dispose();
    }
  }

  private async maskMilliseconds(row: Row, N: number): Promise<number> {
    const {attention, task} = this.options;
    if (attention === 'flash') return 0;
    const batch = toBatch([row], N);
    const start = performance.now();
    const {tensors} = attentionOf(attention, batch, this.model.config);
    for (const tensor of tensors) {
      const corner = tf.tidy(() => tensor.flatten().slice(0, 1));
      await corner.data();
      corner.dispose();
    }
    const milliseconds = performance.now() - start;
    tf.dispose(tensors);
    batch.dispose();
    // DPO's reference makes one of its own.
    return task === 'dpo' ? 2 * milliseconds : milliseconds;
  }
}
