/**
 * @file The command demo, this repository's main job (`npm start`): supervised fine-tuning next to a twin with dense
 * attention. It takes the model and the steps that the machine can do in a few minutes: SmolLM2 on tfjs-node, or a tiny
 * model on WebGPU. docs/finetune.md shows runs.
 */
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {type Command, Option} from 'commander';
import {BACKENDS, type BackendName, type Device} from '../device.js';
import type {Session} from '../io.js';
import {PipMissingError} from '../pinned_download.js';
import {latestCheckpoint, loadCheckpoint} from '../train/checkpoint.js';
import type {ModelFiles} from '../weights/model_files.js';
import {dataPath} from './data.js';
import {documentationModel} from './documentation.js';
import {openDevice, openFiles, openOutput} from './opening.js';
import {train} from './train.js';
import {type TrainOptions, defaultOptions, positive, whole} from './train_options.js';

/** Options given on the command line. */
type Given = Partial<TrainOptions> & {fromScratch?: boolean};

type Plan = Pick<TrainOptions, 'batchRows' | 'rowTokens' | 'compare'> & Partial<TrainOptions> & {steps: number};

const GPU: Plan = {steps: 300, batchRows: 8, rowTokens: 1024, compare: 20};
/** As many steps as two CPU cores can do in under 3 minutes, including those of the twin. */
const SOFTWARE: Plan = {steps: 10, batchRows: 1, rowTokens: 1024, compare: 3};
const JAVASCRIPT: Plan = {steps: 24, batchRows: 1, rowTokens: 256, compare: 20};
/** Adapters of a model that speaks English, in the same time on tfjs-node. */
const SMOLLM2: Plan = {
  ...{model: 'smollm2', lora: true, keepActivations: 'auto'},
  ...{steps: 20, batchRows: 1, rowTokens: 512, compare: 4},
};
const WARMUP_STEPS = 5;

/** Where the demo's defaults differ from those of sft. */
const DEFAULTS = {
  model: 'glassllm',
  output: 'checkpoints/demo',
  backend: 'webgpu',
  evalSamples: 8,
  learningRate: 1e-3,
  prompt: 'Describe a day at the beach.',
  keepActivations: 'always',
} as const satisfies Partial<TrainOptions>;

const EXAMPLES = `
Examples:
  npm start                                            the whole job, on a GPU or on the CPU
  npm start -- --steps 200                             longer
  npm start -- --resume                                go on after Ctrl-C
  npm start -- --from-scratch --backend cpu --steps 5  no download, no WebGPU
  npm run finetune -- --help                           larger models, adapters, preferences, reward models`;

/** Adds the command to the program. It passes its exit code to `finish`. */
export function addDemoCommand(
  program: Command,
  session: Session,
  finish: (exitCode: number) => void,
  setUp: () => void,
): void {
  const {output, evalSamples, learningRate, prompt} = DEFAULTS;
  program
    .command('demo')
    .description('Fine-tunes a small language model on instructions, beside a twin with dense attention (npm start).')
    .configureHelp({commandUsage: () => 'npm start -- [options]'})
    .addHelpText('after', EXAMPLES)
    .option('--model <name>', 'what sft takes (smollm2 on tfjs-node, else glassllm)')
    .option('--data <name>', 'what sft takes (alpaca_en_demo)')
    .addOption(
      new Option(
        '--from-scratch',
        "train fresh weights on this repository's documentation; downloads nothing",
      ).conflicts(['model', 'data']),
    )
    .option('--steps <number>', 'steps of the optimizer (GPU 300, tfjs-node 20, cpu 24, else 10)', whole(1))
    .option('--batch-rows <number>', 'rows of a step (GPU 8, else 1)', whole(1))
    .option('--row-tokens <number>', 'tokens of a packed row (tfjs-node 512, cpu 256, else 1024)', whole(2))
    .option('--learning-rate <number>', `its peak (${learningRate})`, positive)
    .option('--seed <number>', 'of fresh weights and the order of the data (0)', whole(0))
    .option('--eval-samples <number>', `first records, held out to measure the loss on (${evalSamples})`, whole(0))
    .option(
      '--compare <steps>',
      'first steps that the dense twin does too; 0 for none (GPU and cpu 20, tfjs-node 4, else 3)',
      whole(0),
    )
    .option('--prompt <text>', `is answered before and after training (${prompt})`)
    .addOption(
      new Option(
        '--backend <name>',
        'tfjs backend (webgpu on a GPU, else tfjs-node where it can be set up, else webgpu)',
      ).choices(BACKENDS),
    )
    .option('--output <folder>', `where checkpoints, metrics and charts go (${output}, replacing those of before)`)
    .option('--save-every <steps>', 'steps between two checkpoints (50)', whole(1))
    .option('--resume', 'go on from the latest checkpoint, with its settings unless others are given')
    .action(async (given: Given) => finish(await demo(given, session, setUp)));
}

/** Resolves to the exit code: 1 if the losses of dense attention differ. */
async function demo({fromScratch = false, ...given}: Given, session: Session, setUp: () => void): Promise<number> {
  const isFree = !fromScratch && given.backend === undefined && isDefault(given);
  const what = 'looking for a GPU; without one, the job takes two to three minutes on two idle cores';
  session.io.say(`Start    ${isFree ? what : `the backend ${given.backend ?? DEFAULTS.backend}`}`);
  const {device, plan} = isFree ? await freeChoice(session, setUp) : await startingOn(given.backend, session);
  const options = await optionsOf(given, plan);
  const output = openOutput(options.output, session);
  const documentation = join(options.output, 'documentation.jsonl');
  const files =
    fromScratch || options.data === documentation
      ? null
      : await download(options, session, {mayFail: isDefault(given)});
  // A run in the default folder replaces the one before.
  if (!options.resume && given.output === undefined) {
    await output.discardRuns();
  }
  if (files !== null) {
    return train(options, session, {device, files, output});
  }
  const small = plan === SMOLLM2 ? await optionsOf(given, SOFTWARE) : options;
  const fresh = documentationModel(documentation, small, session.io.warn);
  return train({...small, data: documentation}, session, {device, files: fresh, output});
}

interface Choice {
  device: Device;
  plan: Plan;
}

async function startingOn(backend: BackendName | undefined, session: Session): Promise<Choice> {
  const device = await openDevice(backend ?? DEFAULTS.backend, session);
  return {device, plan: device.gpu ? GPU : tf.getBackend() === 'cpu' ? JAVASCRIPT : SOFTWARE};
}

/** A GPU by WebGPU; else tfjs-node, for a larger model than WebGPU could train on a CPU; else WebGPU on the CPU. */
async function freeChoice(session: Session, setUp: () => void): Promise<Choice> {
  // Where WebGPU has no driver at all, tfjs-node may still run.
  const onWebGPU = await startingOn('webgpu', session).catch((error: unknown) => error as Error);
  if (!(onWebGPU instanceof Error) && onWebGPU.device.gpu) return onWebGPU;
  setUp();
  try {
    return {device: await openDevice('tensorflow', session), plan: SMOLLM2};
  } catch (error) {
    if (onWebGPU instanceof Error) throw onWebGPU;
    session.io.say(`Start    WebGPU on the CPU, without ${(error as Error).message}`);
    await tf.setBackend('webgpu');
    return onWebGPU;
  }
}

async function optionsOf(given: Partial<TrainOptions>, plan: Plan): Promise<TrainOptions> {
  return {
    ...defaultOptions('sft'),
    ...DEFAULTS,
    ...plan,
    warmupRatio: Math.min(1, WARMUP_STEPS / (given.steps ?? plan.steps)),
    ...(given.resume ? await optionsOfCheckpoint(given.output ?? DEFAULTS.output) : {}),
    ...given,
  };
}

function isDefault({model, data}: Given): boolean {
  return model === undefined && data === undefined;
}

/** The options of the run to resume; empty without a checkpoint. */
async function optionsOfCheckpoint(output: string): Promise<Partial<TrainOptions>> {
  // The run itself reports damaged checkpoints later.
  const folder = await latestCheckpoint(output, () => {});
  if (folder === null) {
    return {};
  }
  const {settings, baseModel} = (await loadCheckpoint(folder)).state;
  const was = settings as Record<string, never>;
  return {
    model: baseModel.origin,
    data: was.data,
    lora: was.lora,
    steps: was.steps,
    batchRows: was['batch-rows'],
    rowTokens: was['row-tokens'],
    evalSamples: was['eval-samples'],
    learningRate: was['learning-rate'],
    warmupRatio: was['warmup-ratio'],
    seed: was.seed,
  };
}

/** Fetches model and data. Returns null if there is no pip to fetch them and the caller can do without. */
async function download(
  {model, data}: TrainOptions,
  session: Session,
  {mayFail}: {mayFail: boolean},
): Promise<ModelFiles | null> {
  try {
    const files = await openFiles(model, session);
    await dataPath(data, session.io);
    return files;
  } catch (error) {
    if (!mayFail || !(error instanceof PipMissingError)) {
      throw error;
    }
    session.io.say(`${error.message} Training fresh weights on this repository's documentation instead.`);
    return null;
  }
}
