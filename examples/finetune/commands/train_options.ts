/** @file The options of sft, dpo and rm: their allowed values and defaults. */
import {Command, InvalidArgumentError, Option} from 'commander';
import {BACKENDS, type BackendName} from '../device.js';
import {PROJECTIONS, type Projection} from '../model/config.js';
import {KEEP_ACTIVATIONS, type KeepActivations} from '../train/activations.js';
import {REPORT_TO, type ReportTo} from '../train/event_log.js';

export type ObjectiveName = 'sft' | 'dpo' | 'rm';

export const DTYPES = ['float32', 'bfloat16'] as const;
export type Dtype = (typeof DTYPES)[number];

export interface TrainOptions {
  objective: ObjectiveName;
  model: string;
  data: string;
  output: string;
  backend: BackendName;
  resume: boolean;

  lora: boolean;
  loraRank: number;
  loraAlpha: number;
  loraDropout: number;
  loraTargets: Projection[];
  rslora: boolean;

  rowTokens: number;
  batchRows: number;
  /** Batches of a step that each rank computes. */
  accumulate: number;
  /** Ranks that share each row; 1 if each has its own. */
  contextParallel: number;
  /** Ranks divide the states of the optimizer. */
  shardOptimizer: boolean;
  maxTokens?: number;
  tooLong: 'cut' | 'drop';
  shareQuestions: boolean;
  skipBad: boolean;
  evalSamples: number;
  /** Steps between two measurements on the held-out records. Default: only before and after training. */
  evalSteps?: number;

  /** Default: as many as `epochs` need. */
  steps?: number;
  epochs: number;
  learningRate: number;
  warmupRatio: number;
  weightDecay: number;
  maxGradNorm: number;
  seed: number;
  beta: number;
  labelSmoothing: number;
  precomputeReference: boolean;
  centering: number;

  /** Whether blocks keep their activations, or compute them twice. */
  keepActivations: KeepActivations;
  /** Run operation by operation on tfjs-node too. */
  eager: boolean;
  /** Compile by XLA on tfjs-node. */
  xla: boolean;
  /** Type of the operands of matrix products. */
  dtype: Dtype;
  saveEvery: number;
  saveLimit: number;
  /** Who else gets the metrics. */
  reportTo: ReportTo;
  /** How many steps a twin with dense attention does too; 0 for no twin. */
  compare: number;
  prompt?: string;
}

/** TRL's learning rates for all weights. For adapters ten times as much or more is usual. */
const LEARNING_RATES: Record<ObjectiveName, {full: number; lora: number}> = {
  sft: {full: 2e-5, lora: 2e-4},
  dpo: {full: 1e-6, lora: 5e-5},
  rm: {full: 1e-5, lora: 2e-4},
};

const DATA: Record<ObjectiveName, string> = {sft: 'alpaca_en_demo', dpo: 'dpo_en_demo', rm: 'dpo_en_demo'};

const TITLES: Record<ObjectiveName, string> = {
  sft: 'Fine-tunes on conversations: learns the answers of the assistant.',
  dpo: 'Fine-tunes on preferences: direct preference optimisation.',
  rm: 'Trains a reward model on preferences or ranked answers.',
};

/** Value of `--compare` without a number. */
const ALL = 'all';

export function whole(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isSafeInteger(value) || value < least) {
      throw new InvalidArgumentError(`It should be a whole number, at least ${least}.`);
    }
    return value;
  };
}

export function within(least: number, most: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !(value >= least && value <= most)) {
      const bounds = most === Infinity ? `at least ${least}` : `from ${least} to ${most}`;
      throw new InvalidArgumentError(`It should be a number ${bounds}.`);
    }
    return value;
  };
}

export function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value < Infinity)) {
    throw new InvalidArgumentError('It should be a number above 0.');
  }
  return value;
}

function projections(text: string): Projection[] {
  const names = text === 'all' ? [...PROJECTIONS] : text.split(',').map((name) => name.trim());
  const unknown = names.filter((name) => !(PROJECTIONS as readonly string[]).includes(name));
  if (unknown.length > 0) {
    throw new InvalidArgumentError(`${unknown.join()} should be all, or some of ${PROJECTIONS.join()}.`);
  }
  // In the model's order, without repetitions, so that two ways to write the same set make the same run.
  return PROJECTIONS.filter((name) => names.includes(name));
}

export const backendOption = (): Option =>
  new Option('--backend <name>', 'tfjs backend; auto takes tfjs-node where it is set up')
    .choices(BACKENDS)
    .default('auto');

/** Adds the command of an objective to the program. */
export function addTrainCommand(
  program: Command,
  objective: ObjectiveName,
  run: (options: TrainOptions) => Promise<void>,
): void {
  const command = program
    .command(objective)
    .description(TITLES[objective])
    .option('--config <file>', 'YAML with these options, as "row-tokens: 512"; those given here win');
  addOptions(command, objective);
  command.action((given: GivenOptions) => run(withDefaults(objective, given)));
}

/** The options of an objective if none is given. */
export function defaultOptions(objective: ObjectiveName): TrainOptions {
  const command = new Command();
  addOptions(command, objective);
  return withDefaults(objective, command.opts<GivenOptions>());
}

function addOptions(command: Command, objective: ObjectiveName): void {
  addModelAndData(command, objective);
  addLora(command);
  addBatches(command);
  addOptimization(command, objective);
  addRun(command, objective);
}

function withDefaults(objective: ObjectiveName, given: GivenOptions): TrainOptions {
  const rate = LEARNING_RATES[objective][given.lora ? 'lora' : 'full'];
  return {...UNLESS_GIVEN, ...given, objective, learningRate: given.learningRate ?? rate};
}

const UNLESS_GIVEN = {
  resume: false,
  lora: false,
  rslora: false,
  skipBad: false,
  eager: false,
  xla: false,
  shardOptimizer: false,
  // Options of the other objectives.
  beta: 0,
  labelSmoothing: 0,
  precomputeReference: false,
  centering: 0,
  shareQuestions: true,
};

/** Options as commander returns them: flags, options of other objectives and the learning rate only if they are set. */
type GivenOptions = Omit<TrainOptions, 'objective' | 'learningRate' | keyof typeof UNLESS_GIVEN> &
  Partial<typeof UNLESS_GIVEN> & {learningRate?: number};

function addModelAndData(command: Command, objective: ObjectiveName): void {
  command
    .optionsGroup('Model and data:')
    .option('--model <name>', 'smollm2, glassllm, a folder, a .gguf file, or owner/name of a hub', 'smollm2')
    .option('--data <name>', 'a .jsonl or .json file, alpaca_en_demo or dpo_en_demo', DATA[objective])
    .option('--output <folder>', 'where checkpoints, metrics and charts go', `checkpoints/${objective}`)
    .addOption(backendOption())
    .option('--resume', 'go on from the latest checkpoint in --output, also with more --steps');
}

function addLora(command: Command): void {
  command
    .optionsGroup('Adapters:')
    .option('--lora', 'train low-rank adapters instead of all weights')
    .option('--lora-rank <number>', 'rank of the adapters', whole(1), 8)
    .option('--lora-alpha <number>', 'the adapters count alpha / rank', positive, 16)
    .option('--lora-dropout <fraction>', 'of their inputs, in training', within(0, 0.99), 0)
    .addOption(
      new Option('--lora-targets <names>', `all, or some of ${PROJECTIONS.join()}`)
        .argParser(projections)
        .default([...PROJECTIONS], 'all'),
    )
    .option('--rslora', 'the adapters count alpha / √rank');
}

function addBatches(command: Command): void {
  command
    .optionsGroup('Rows and batches:')
    .option('--row-tokens <number>', 'tokens of a packed row', whole(2), 512)
    .option('--batch-rows <number>', 'rows that are computed together', whole(1), 1)
    .option('--accumulate <number>', 'batches of a step, on each rank', whole(1), 1)
    .option('--context-parallel <ranks>', 'ranks that share each row, for rows too long for one', whole(1), 1)
    .option('--max-tokens <number>', 'longest sample (the row, or what the model can read)', whole(2))
    .addOption(new Option('--too-long <what>', 'what is done to longer ones').choices(['cut', 'drop']).default('cut'))
    .option('--skip-bad', 'leave out items that cannot be read, and count them')
    .option('--eval-samples <number>', 'first records of the file, held out to measure the loss on', whole(0), 0)
    .option('--eval-steps <number>', 'steps between two measurements on them (only before and after)', whole(1));
}

function addOptimization(command: Command, objective: ObjectiveName): void {
  const {full, lora} = LEARNING_RATES[objective];
  command
    .optionsGroup('Optimization:')
    .option('--steps <number>', 'steps of the optimizer (as many as --epochs need)', whole(1))
    .option('--epochs <number>', 'times that the data are gone through', whole(1), 1)
    .option('--learning-rate <number>', `its peak (${full}, with --lora ${lora})`, positive)
    .option('--warmup-ratio <fraction>', 'part of the steps before the peak', within(0, 1), 0.1)
    .option('--weight-decay <number>', "AdamW's, of matrices", within(0, Infinity), 0)
    .option('--max-grad-norm <number>', 'gradients with a larger norm are scaled down', positive, 1)
    .option('--seed <number>', 'of fresh weights, dropout and the order of the data', whole(0), 0);
  if (objective === 'dpo') {
    command
      .option('--beta <number>', 'how far from the reference: smaller is further', positive, 0.1)
      .option('--label-smoothing <fraction>', 'share of preferences that are the wrong way round', within(0, 0.5), 0)
      .option(
        '--precompute-reference',
        'once before training, as all weights need it, not with adapters off at each step',
      );
  }
  if (objective === 'rm') {
    command.option('--centering <number>', 'keeps rewards around zero; 0.01 is usual', within(0, Infinity), 0);
  }
  if (objective !== 'sft') {
    command.option('--no-share-questions', 'give each answer a copy of its question: slower, the same losses');
  }
}

function addRun(command: Command, objective: ObjectiveName): void {
  command
    .optionsGroup('Speed and memory:')
    .addOption(
      new Option('--keep-activations [when]', 'do not compute blocks twice: faster, more memory; auto: where it fits')
        .choices(KEEP_ACTIVATIONS)
        .preset('always')
        .default('auto'),
    )
    .option('--eager', 'on tfjs-node: run operation by operation, not in traced functions')
    .option('--xla', 'on tfjs-node: compile by XLA: slow first steps, then faster ones')
    .addOption(
      new Option('--dtype <type>', 'of the operands of matrix products, on tfjs-node; weights stay float32')
        .choices(DTYPES)
        .default('float32'),
    )
    .option('--shard-optimizer', 'several ranks divide the states of the optimizer')
    .optionsGroup('The run:')
    .option('--save-every <steps>', 'steps between two checkpoints', whole(1), 50)
    .option('--save-limit <number>', 'checkpoints that are kept', whole(1), 2)
    .addOption(
      new Option('--report-to <what>', 'tensorboard: events in --output/runs too, on tfjs-node')
        .choices(REPORT_TO)
        .default('none'),
    )
    .addOption(
      new Option('--compare [steps]', 'a twin with dense attention does the first steps too (all)')
        .argParser((text) => (text === ALL ? Infinity : whole(0)(text)))
        .preset(ALL)
        .default(0, 'none'),
    );
  if (objective !== 'rm') {
    command.option('--prompt <text>', 'is answered before and after training');
  }
}
