/** @file The measuring process of the suite `finetune`: training steps of one model on one packed row. */
import * as tf from '@tensorflow/tfjs';
import {toBatch} from '../../examples/finetune/data/batch.js';
import type {Row} from '../../examples/finetune/data/sample.js';
import type {Dtype} from '../../examples/finetune/commands/train_options.js';
import {type BackendName, startDevice} from '../../examples/finetune/device.js';
import {peakBytes} from '../../examples/finetune/memory.js';
import {PROJECTIONS} from '../../examples/finetune/model/config.js';
import {AdamW} from '../../examples/finetune/train/adamw.js';
import {type AttentionKind, attentionOf} from '../../examples/finetune/train/attention.js';
import {dpoObjective} from '../../examples/finetune/train/objectives/dpo.js';
import type {Objective} from '../../examples/finetune/train/objectives/objective.js';
import {rmObjective} from '../../examples/finetune/train/objectives/rm.js';
import {sftObjective} from '../../examples/finetune/train/objectives/sft.js';
import {adapterOffReference} from '../../examples/finetune/train/reference.js';
import {TrainedModel, checkCompilation} from '../../examples/finetune/train/trained_model.js';
import {type StepResult, Trainer} from '../../examples/finetune/train/trainer.js';
import {nvidiaBytes} from '../backend.js';
import {once, repeat} from '../clock.js';
import type {Figures} from '../record.js';
import {type ModelName, randomModel} from './models.js';
import {fillRow, type Task, typicalTexts, visiblePairs} from './rows.js';

/** One measurement. */
export interface StepOptions {
  backend: BackendName;
  model: ModelName;
  task: Task;
  attention: AttentionKind;
  N: number;
  keepActivations: boolean;
  /** Operation by operation on tfjs-node too. */
  eager: boolean;
  /** On tfjs-node: compiled by XLA, and the type of the operands of products. */
  xla: boolean;
  dtype: Dtype;
  /** Timed steps after the first one. */
  steps: number;
  /** After so many seconds of timed steps no further step starts. */
  seconds: number;
}

/** The defaults of the command line, see `examples/finetune/commands/train_options.ts`. */
export const LORA = {rank: 8, alpha: 16, dropout: 0, targetModules: PROJECTIONS, useRslora: false};
const BETA = 0.1;

/**
 * The optimizer does all its work but leaves the weights unchanged: every length and attention trains the same model.
 */
export const RATE = 0;
export const SEED = 5;

function objectiveOf({task, attention}: StepOptions, model: TrainedModel): Objective {
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

/** Starts the backend, trains, and returns the figures. */
export async function measureSteps(options: StepOptions): Promise<Figures & {device: string}> {
  const {backend, task, N, attention, keepActivations, eager, xla, dtype, steps, seconds} = options;
  // Read this before TensorFlow takes any memory.
  const others = backend === 'tensorflow' ? nvidiaBytes() : null;
  const device = await startDevice(backend);
  checkCompilation(options);
  const lora = task === 'sft' ? null : LORA;
  const model = await TrainedModel.load(randomModel(options.model), {
    lora, rewardModel: task === 'rm', seed: SEED, keepActivations, eager, compilation: {xla, bfloat16: dtype === 'bfloat16'},
  }); // prettier-ignore
  const trainer = new Trainer(model, objectiveOf(options, model), new AdamW(model.trainable, {eager}), attention);
  const memory = memoryMeter(device.gpu ? others : null);
  const texts = typicalTexts(task, N, SEED);
  const row = fillRow(task, texts, model.config.vocabSize, SEED);
  const heldBytes = memory.held();
  const step = () => trainOn(row, N, trainer, () => device.check());
  const [{loss, gradNorm}, firstMs] = await step();
  const times = await repeat(async () => (await step())[1], {seconds, most: steps});
  // Measure the peak last: tfjs's profile, which counts tensors, hides why a step failed.
  const peak = await memory.peakOf(step);
  const maskMs = attention === 'flash' ? 0 : await maskMilliseconds(row, options, model);
  const medianMs = (times[(times.length - 1) >> 1] + times[times.length >> 1]) / 2;
  return {
    device: device.description,
    texts: texts.length,
    masked: 1 - visiblePairs(texts) / N ** 2,
    firstMs,
    steps: times.length,
    medianMs,
    bestMs: times[0],
    maskMs,
    tokensPerSecond: (1000 * N) / (medianMs - maskMs),
    heldBytes,
    peakBytes: peak,
    memoryBy: memory.by,
    ...(device.gpu ? {} : {residentBytes: 1024 * process.resourceUsage().maxRSS}),
    loss,
    gradNorm,
  };
}

/** A step on a new batch, because each training step makes its batch's mask. Making the batch is not timed. */
async function trainOn(
  row: Row,
  N: number,
  trainer: Trainer,
  check: () => Promise<void>,
): Promise<[result: StepResult, ms: number]> {
  const batch = toBatch([row], N);
  try {
    const timed = await once(() => trainer.step([batch], RATE));
    await check();
    return timed;
  } finally {
    batch.dispose();
  }
}

/** Milliseconds per step spent making dense attention's mask. */
async function maskMilliseconds(row: Row, {attention, task, N}: StepOptions, model: TrainedModel): Promise<number> {
  const batch = toBatch([row], N);
  const [tensors, ms] = await once(async () => {
    const made = attentionOf(attention, batch, model.config).tensors;
    for (const tensor of made) {
      const corner = tf.tidy(() => tensor.flatten().slice(0, 1));
      await corner.data();
      corner.dispose();
    }
    return made;
  });
  tf.dispose(tensors);
  batch.dispose();
  // DPO's reference makes a mask of its own.
  return task === 'dpo' ? 2 * ms : ms;
}

interface MemoryMeter {
  /** Name of the counter. */
  by: string;
  /** Bytes held now. */
  held(): number;
  /** The most bytes held during `work`. It has run before, and runs again where that is needed to measure it. */
  peakOf(work: () => Promise<unknown>): Promise<number>;
}

/** @param others Bytes used on the NVIDIA GPU before this process; null where TensorFlow does not run on one. */
export function memoryMeter(others: number | null): MemoryMeter {
  if (others !== null) {
    // TensorFlow returns no memory, so the present use is the peak.
    const held = (): number => nvidiaBytes()! - others;
    return {by: 'nvidia-smi', held, peakOf: () => Promise.resolve(held())};
  }
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
