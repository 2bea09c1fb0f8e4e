/**
 * @file The measuring processes of the suite `distributed`: training steps of one model on several ranks, each on rows
 * of its own (data parallel), or together on one row (context parallel).
 */
import {type World, init} from '../../src/entries/distributed.js';
import {planContextParallel} from '../../src/distributed/context_parallel.js';
import type {ProcessGroup} from '../../src/distributed/process_group.js';
import {soloGroup} from '../../src/distributed/solo_group.js';
import {type Batch, toBatch} from '../../examples/finetune/data/batch.js';
import {type Device, startDevice} from '../../examples/finetune/device.js';
import {nvidiaSmi} from '../../examples/finetune/nvidia_smi.js';
import {AdamW} from '../../examples/finetune/train/adamw.js';
import {sftObjective} from '../../examples/finetune/train/objectives/sft.js';
import type {Ranks} from '../../examples/finetune/train/ranks.js';
import {sharingOf} from '../../examples/finetune/train/sharing.js';
import {TrainedModel, checkCompilation} from '../../examples/finetune/train/trained_model.js';
import {Trainer} from '../../examples/finetune/train/trainer.js';
import {nvidiaBytes, nvidiaName} from '../backend.js';
import {settle} from '../clock.js';
import type {Figures} from '../record.js';
import {lengthsNear} from './longest.js';
import {randomModel} from './models.js';
import {quietGroup} from './quiet_group.js';
import {type Texts, equalTexts, fillRow, typicalTexts, visiblePairs} from './rows.js';
import {LORA, RATE, SEED, type StepOptions, memoryMeter} from './step.js';

/** What all ranks measure together. */
export interface RankStepOptions extends Omit<StepOptions, 'backend' | 'attention'> {
  task: 'sft' | 'lora';
  /** Whether the ranks share one row. Else each has a row of its own. */
  together: boolean;
  /** Equal documents of a row. Default: the typical row of the suite `finetune`. */
  documents?: number;
  /** Also steps whose collectives send nothing. */
  timeline: boolean;
  /** Looks for the longest row, from N to so many tokens, of documents of so many. */
  longest?: {upTo: number; documentTokens: number};
}

export type RankFigures = Figures & {N: number; device: string};

/** Ranks that have a model to train. */
interface Setting {
  options: RankStepOptions;
  device: Device;
  /** The GPU or the backend. */
  hardware: string;
  world: World;
  team: ProcessGroup;
  model: TrainedModel;
  memory: ReturnType<typeof memoryMeter>;
}

/** A trainer, and what its last step noted. */
interface Watched {
  trainer: Trainer;
  /** When the host had queued all work, and when the device had done it, before the ranks waited for each other. */
  noted: {queued: number; done: number};
}

interface Step {
  /** Of the slowest rank. */
  ms: number;
  loss: number;
  gradNorm: number;
  /** From the start of the step, of this rank. */
  hostMs: number;
  ownMs: number;
}

async function setUp(options: RankStepOptions): Promise<Setting> {
  const {eager, xla, dtype, keepActivations, task} = options;
  // Before TensorFlow takes any memory.
  const [others, gpu] = [nvidiaBytes(), nvidiaName()];
  const device = await startDevice('tensorflow');
  const world = await init();
  checkCompilation(options);
  const model = await TrainedModel.load(randomModel(options.model), {
    lora: task === 'sft' ? null : LORA, rewardModel: false, seed: SEED, keepActivations, eager,
    compilation: {xla, bfloat16: dtype === 'bfloat16'},
  }); // prettier-ignore
  const team = options.together ? world.split(0) : soloGroup;
  const hardware = (device.gpu && gpu) || device.description;
  return {options, device, hardware, world, team, model, memory: memoryMeter(device.gpu ? others : null)};
}

/** A trainer of the setting's model. */
function watch({model, options}: Setting, ranks: Ranks, team: ProcessGroup): Watched {
  const noted = {queued: 0, done: 0};
  const optimizer = new AdamW(model.trainable, {eager: options.eager}, sharingOf(ranks, {divided: false}));
  const step = optimizer.step.bind(optimizer);
  optimizer.step = (gradients, rate) => {
    const norm = step(gradients, rate);
    noted.queued = performance.now();
    return norm;
  };
  const exchange = (value: unknown): Promise<unknown[]> => {
    noted.done = performance.now();
    return ranks.exchange(value);
  };
  const watched = Object.create(ranks, {exchange: {value: exchange}}) as Ranks;
  return {trainer: new Trainer(model, sftObjective, optimizer, 'flash', SEED, watched, team), noted};
}

function textsOf({task, documents}: RankStepOptions, N: number): Texts {
  return documents === undefined ? typicalTexts(task, N, SEED) : equalTexts(task, N, documents, SEED);
}

/** A batch of one row for each team. Rows have the same documents, with other tokens. */
function batchesOf({options, world, team, model}: Setting, texts: Texts, N: number): Batch[] {
  const rows = Array.from({length: world.size / team.size}, (_, i) =>
    fillRow(options.task, texts, model.config.vocabSize, SEED + i),
  );
  return rows.map((row) => toBatch([row], N));
}

/** A step that all ranks begin together, on new batches: each training step makes its batches' masks. */
async function stepOn(setting: Setting, {trainer, noted}: Watched, texts: Texts, N: number): Promise<Step> {
  const {world, device} = setting;
  const batches = batchesOf(setting, texts, N);
  try {
    await settle();
    world.barrier();
    const start = performance.now();
    const {loss, gradNorm} = await trainer.step(batches, RATE);
    await settle();
    const own = performance.now() - start;
    await device.check();
    const ms = Math.max(...(await world.exchange(own)));
    return {ms, loss, gradNorm, hostMs: noted.queued - start, ownMs: noted.done - start};
  } finally {
    batches.forEach((batch) => batch.dispose());
  }
}

/** Steps, as many on all ranks, until there are enough or the seconds are over. The fastest comes first. */
async function repeatSteps({steps, seconds}: RankStepOptions, step: () => Promise<Step>): Promise<Step[]> {
  const done: Step[] = [];
  let ms = 0;
  while (done.length < steps && (done.length === 0 || ms < 1000 * seconds)) {
    const next = await step();
    ms += next.ms;
    done.push(next);
  }
  return done.sort((a, b) => a.ms - b.ms);
}

const medianOf = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
};

/** How a row is dealt to the ranks that share it. */
function dealtFigures({team}: Setting, [batch]: readonly Batch[]): Figures {
  if (team.size === 1) return {};
  const plan = planContextParallel(batch.mask(null), {ranks: team.size});
  const received = Array.from({length: team.size}, (_, rank) => plan.receivedRows(rank));
  const {imbalance, chunk} = plan;
  return {
    imbalance,
    chunk,
    receivedRows: received.reduce((a, b) => a + b) / team.size,
    mostReceivedRows: Math.max(...received),
  };
}

/**
 * What a step is made of: each rank's step without collectives, and the time until a host has queued its work. What is
 * left of a step is transfers, and waiting for others.
 */
async function timelineOf(setting: Setting, texts: Texts, N: number): Promise<Figures> {
  const {world, team, options} = setting;
  const quiet: Ranks = {...quietGroup(world), exchange: (value) => world.exchange(value)};
  const alone = watch(setting, quiet, team.size === 1 ? team : quietGroup(team));
  const step = (): Promise<Step> => stepOn(setting, alone, texts, N);
  await step();
  const steps = await repeatSteps(options, step);
  alone.trainer.optimizer.dispose();
  const ownMs = await world.exchange(medianOf(steps.map((each) => each.ownMs)));
  return {quietMs: medianOf(steps.map(({ms}) => ms)), ownMs};
}

/** Emits figures, each in place of those before. */
type EmitFigures = (figures: RankFigures) => void;

export async function measureRanks(options: RankStepOptions, emit: EmitFigures): Promise<void> {
  const setting = await setUp(options);
  await (options.longest ? measureLongest(setting, options.longest, emit) : measureSteps(setting, emit));
  await setting.world.finalize();
}

async function measureSteps(setting: Setting, emit: EmitFigures): Promise<void> {
  const {options, world, team, memory, hardware} = setting;
  const {N} = options;
  const texts = textsOf(options, N);
  const watched = watch(setting, world, team);
  const heldBytes = memory.held();
  const step = (): Promise<Step> => stepOn(setting, watched, texts, N);
  const first = await step();
  // The second step confirms recordings of the first.
  if (first.ms < 1000 * options.seconds) await step();
  const timed = await repeatSteps(options, step);
  const medianMs = medianOf(timed.map(({ms}) => ms));
  const peaks = await world.exchange(memory.held());
  const batches = batchesOf(setting, texts, N);
  const dealt = dealtFigures(setting, batches);
  const rows = batches.length;
  batches.forEach((batch) => batch.dispose());
  const figures: RankFigures = {
    N,
    device: hardware,
    texts: texts.length,
    masked: 1 - visiblePairs(texts) / N ** 2,
    firstMs: first.ms,
    steps: timed.length,
    medianMs,
    bestMs: timed[0].ms,
    tokensPerSecond: (1000 * N * rows) / medianMs,
    hostMs: Math.max(...(await world.exchange(medianOf(timed.map(({hostMs}) => hostMs))))),
    heldBytes,
    peakBytes: Math.max(...peaks),
    memoryBy: memory.by,
    ...dealt,
    loss: first.loss,
    gradNorm: first.gradNorm,
  };
  emit(figures);
  if (options.timeline) emit({...figures, ...(await timelineOf(setting, texts, N))});
}

/**
 * Trains on longer and longer rows, a step each, until one fails: that ends the processes. Emits the figures of each.
 * Two short rows tell where memory should end.
 */
async function measureLongest(
  setting: Setting,
  {upTo, documentTokens}: NonNullable<RankStepOptions['longest']>,
  emit: EmitFigures,
): Promise<void> {
  const {options, world, team, memory, hardware, device} = setting;
  const from = options.N;
  const watched = watch(setting, world, team);
  /** Returns the bytes of the fullest GPU. */
  const tried = async (N: number, nextN?: number): Promise<number> => {
    const texts = textsOf({...options, documents: Math.max(1, Math.round(N / documentTokens))}, N);
    const {ms, loss, gradNorm} = await stepOn(setting, watched, texts, N);
    const peakBytes = Math.max(...(await world.exchange(memory.held())));
    const masked = 1 - visiblePairs(texts) / N ** 2;
    const figures = {texts: texts.length, masked, firstMs: ms, peakBytes, memoryBy: memory.by, loss, gradNorm};
    emit({N, device: hardware, ...figures, ...(nextN === undefined ? {} : {nextN})});
    return peakBytes;
  };
  const [short, longer] = [await tried(from, 2 * from), await tried(2 * from)];
  const total = device.gpu ? 2 ** 20 * Number(nvidiaSmi('memory.total')[0]) : Infinity;
  const [end] = await world.exchange(2 * from + ((total - longer) * from) / (longer - short));
  const lengths = lengthsNear(end ?? Infinity, 2 * from, upTo);
  for (const [i, N] of lengths.entries()) await tried(N, lengths[i + 1]);
}
