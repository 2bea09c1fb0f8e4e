/** @file The commands sft, dpo and rm: they train, show progress, and leave checkpoints, metrics and charts. */
import {setImmediate} from 'node:timers/promises';
import {join} from 'node:path';
import {onFunctions} from '../../../src/backends/tensorflow/traced/progress.js';
import type {Batch} from '../data/batch.js';
import {EXIT_CODES, type Io, type Session, type StopReason} from '../io.js';
import {chooseActivations} from '../train/activations.js';
import {printCharts, saveCharts} from '../train/charts.js';
import {LossComparison} from '../train/comparison.js';
import {EVENTS_FOLDER, EventLog} from '../train/event_log.js';
import {METRICS_FILE, MetricsLog} from '../train/metrics.js';
import {type TrainingBar, formatSeconds, trainingBar} from '../train/progress.js';
import {type Ranks, SharedError, together} from '../train/ranks.js';
import {learningRate} from '../train/schedule.js';
import type {TrainedModel} from '../train/trained_model.js';
import type {StepResult} from '../train/trainer.js';
import {BatchSource} from './data.js';
import {type Sample, TILE, reportComparison, reportSamples, reportTiles, sample} from './outcome.js';
import {describeRun} from './report.js';
import {joinRanks} from './launched.js';
import {type Opened, type Run, prepareRun, startModel} from './run.js';
import {save} from './saving.js';
import type {TrainOptions} from './train_options.js';
import {type Trainers, makeTrainers} from './trainers.js';

/**
 * Trains, with the other processes of a launcher if there is one. Resolves to the exit code: 1 if the losses of dense
 * attention differ, and that of a stopped run.
 */
export async function train(options: TrainOptions, session: Session, opened: Opened = {}): Promise<number> {
  const {ranks, leave} = await joinRanks(options, session);
  try {
    const code = await trainOn(ranks, options, session, opened);
    await leave();
    return code;
  } catch (error) {
    // The other ranks hear of any other error by the end of this process.
    if (error instanceof SharedError) await leave();
    throw error;
  }
}

/** The same on ranks that the caller has joined. */
export async function trainOn(
  ranks: Ranks,
  options: TrainOptions,
  session: Session,
  opened: Opened = {},
): Promise<number> {
  const started = performance.now();
  const {io} = session;
  const {run, trainers} = await prepared(ranks, () => prepare(ranks, options, session, opened));
  const first = await sample(run, trainers.flash, 'Before');
  const file = run.output === null ? null : join(options.output, METRICS_FILE);
  const log = new MetricsLog(file, run.before?.state.logHistory, io.warn);
  const {folder, comparison, stopped} = await loop(run, trainers, log, openEvents(run));
  io.say(`Saved    ${folder}`);
  if (stopped === null) {
    await reportOutcome(run, trainers, {first, log, comparison});
    io.say(`Done in ${formatSeconds((performance.now() - started) / 1000)}.`);
    return Number(!comparison.agrees);
  }
  io.say(`Stopped after step ${log.records.length} of ${run.steps}. Go on with --resume.`);
  return EXIT_CODES[stopped];
}

/** The events that `--report-to tensorboard` asks for, until the end of the command. Null on ranks without output. */
function openEvents({options, output, before, session}: Run): EventLog | null {
  if (options.reportTo === 'none' || output === null) return null;
  const events = new EventLog(join(options.output, EVENTS_FOLDER), before?.step ?? 0, session.io.warn);
  session.atEnd(() => events.close());
  return events;
}

interface Prepared {
  run: Run;
  trainers: Trainers;
}

/** What `work` prepares on every rank, once it is done on all of them. */
async function prepared<T>(ranks: Ranks, work: () => Promise<T>): Promise<T> {
  let own: T;
  await together(ranks, async () => {
    own = await work();
  });
  return own!;
}

async function prepare(ranks: Ranks, options: TrainOptions, session: Session, opened: Opened): Promise<Prepared> {
  const {io} = session;
  const run = await prepareRun(options, session, ranks, opened);
  const {before, output} = run;
  const model = await startModel(run);
  io.say(describeRun(run, model));
  if (options.keepActivations === 'auto') io.say(`Memory   ${await chooseMemory(run, model)}`);
  output?.setAside(before?.state.logHistory ?? [], io.warn);
  return {run, trainers: await makeTrainers(run, model)};
}

/** Keeps activations where that fits on every rank; returns what it chose, for the user. */
async function chooseMemory({options, device, ranks}: Run, model: TrainedModel): Promise<string> {
  const {rowTokens, batchRows, compare, contextParallel} = options;
  const choices = await together(ranks, () =>
    compare > 0
      ? {keep: false, why: 'the twin with dense attention needs memory'}
      : chooseActivations(model, (rowTokens * batchRows) / contextParallel, device.freeBytes()),
  );
  const {keep, why} = choices.find((choice) => !choice.keep) ?? choices[0];
  model.keepActivations = keep;
  return `activations are ${keep ? 'kept' : 'computed twice'}: ${why}`;
}

interface Outcome {
  /** Taken before the first step. */
  first: Sample;
  log: MetricsLog;
  comparison: LossComparison;
}

async function reportOutcome(run: Run, trainers: Trainers, {first, log, comparison}: Outcome): Promise<void> {
  const {io} = run.session;
  if (run.output !== null) {
    printCharts(log.records, io);
    io.say(`\nCharts   ${saveCharts(run.options.output, log.records, io).join(', ')}`);
  }
  reportSamples(run, first, await sample(run, trainers.flash, 'After'));
  reportTiles(log, io);
  if (trainers.dense !== null) {
    await reportComparison(run, trainers, comparison);
  }
}

/**
 * Until `end` is called, a wish to stop ends the run after the present step, and a second one ends the process.
 * `wish` tells the wish of this rank or, if it has none, that of another; all ranks must call it.
 */
function stopWhenAsked(
  bar: TrainingBar,
  io: Io,
  ranks: Ranks,
): {wish: () => Promise<StopReason | null>; end: () => void} {
  let own: StopReason | null = null;
  const stop = (reason: StopReason): void => {
    own = reason;
    // Restores the terminal's cursor now, because a second wish would not.
    bar.stop();
    io.say('Stopping after this step, with a checkpoint (Ctrl-C again: at once, without).');
  };
  const wish = async (): Promise<StopReason | null> => {
    const wishes = await ranks.exchange(own);
    return wishes[ranks.rank] ?? wishes.find((each) => each !== null) ?? null;
  };
  return {wish, end: io.onStop(stop)};
}

interface Trained {
  /** The last checkpoint. */
  folder: string;
  comparison: LossComparison;
  /** Null for a run that did all its steps. */
  stopped: StopReason | null;
}

/** Trains to the last step or to a wish to stop. If there is a twin, it does the first `compare` steps too. */
async function loop(run: Run, trainers: Trainers, log: MetricsLog, events: EventLog | null): Promise<Trained> {
  const {options, session, ranks, steps, warmupSteps, tokenizer, before} = run;
  const step = {batchRows: options.batchRows, batches: run.batches};
  const data = new BatchSource(run.rows, tokenizer, step, before?.state.position);
  const comparison = new LossComparison();
  const bar = trainingBar(steps, log.records.length, session.io);
  const {wish, end} = stopWhenAsked(bar, session.io, ranks);
  let stopped: StopReason | null = null;
  let folder = before?.folder ?? '';
  const endCompiling = onFunctions((made, known) => bar.compiling(made, known));
  try {
    while (log.records.length < steps && stopped === null) {
      const batches = await data.next();
      const rate = learningRate(log.records.length, steps, options.learningRate, warmupSteps);
      try {
        const result = await trainers.flash.step(batches, rate);
        checkFinite(result, log.records.length + 1, folder);
        if (trainers.dense !== null && comparison.steps < options.compare) {
          comparison.add(result.loss, (await trainers.dense.step(batches, rate)).loss);
        }
        await run.device.check();
        const heldOutLoss = await evaluateNow(run, trainers, log.records.length + 1);
        await record(run, log, bar, {batches, rate, result, heldOutLoss, position: data.position});
        events?.append(log.records.at(-1)!);
      } finally {
        batches.forEach((batch) => batch.dispose());
      }
      // On the cpu backend Node has no other chance to see a signal.
      await setImmediate();
      stopped = await wish();
      const done = log.records.length;
      if (done % options.saveEvery === 0 || done === steps || stopped !== null) {
        folder = await save(run, trainers, data, log);
        stopped ??= await wish();
      }
    }
  } finally {
    end();
    endCompiling();
    bar.stop();
    await data.close();
  }
  return {folder, comparison, stopped: log.records.length < steps ? stopped : null};
}

/** Throws if the loss or gradient is not finite. The weights are then spoilt, so nothing of this step may be saved. */
function checkFinite({loss, gradNorm}: StepResult, step: number, checkpoint: string): void {
  if (!Number.isFinite(loss) || !Number.isFinite(gradNorm)) {
    const last = checkpoint === '' ? 'There is no checkpoint yet.' : `${checkpoint} is the last good checkpoint.`;
    throw new SharedError(
      `The loss of step ${step} is ${loss}, the norm of its gradients ${gradNorm}. ${last} Start again with a lower --learning-rate.`,
    );
  }
}

/** The held-out loss after a step, if it is time for it. */
async function evaluateNow({options, heldOut}: Run, {flash}: Trainers, step: number): Promise<number | undefined> {
  const {evalSteps} = options;
  return evalSteps !== undefined && step % evalSteps === 0 ? flash.evaluate(heldOut) : undefined;
}

interface StepRecord {
  batches: Batch[];
  rate: number;
  result: StepResult;
  heldOutLoss: number | undefined;
  position: BatchSource['position'];
}

async function record(
  run: Run,
  log: MetricsLog,
  bar: TrainingBar,
  {batches, rate, result, heldOutLoss, position}: StepRecord,
): Promise<void> {
  const tokens = batches.reduce((sum, batch) => sum + batch.tokens, 0);
  const places = batches.reduce((sum, {positions}) => sum + positions.length, 0);
  const tokensPerSecond = tokens / (result.milliseconds / 1000);
  const own = result.own.map((i) => batches[i].mask(null).sparsity({blockQ: TILE, blockK: TILE}).emptyTiles);
  const empty = (await run.ranks.exchange(own)).flat();
  log.append({
    global_step: log.records.length + 1,
    // Another shuffle may pack an epoch into one row more than the first epoch has.
    epoch: position.epoch + Math.min(1, position.row / run.epoch.rows),
    loss: result.loss,
    learning_rate: rate,
    grad_norm: result.gradNorm,
    num_tokens: (log.records.at(-1)?.num_tokens ?? 0) + tokens,
    ...result.metrics,
    ...(heldOutLoss === undefined ? {} : {eval_loss: heldOutLoss}),
    tokens_per_second: tokensPerSecond,
    packing_density: tokens / places,
    tile_sparsity: empty.reduce((sum, fraction) => sum + fraction, 0) / empty.length,
  });
  bar.update({step: log.records.length, loss: result.loss, learningRate: rate, tokensPerSecond, heldOutLoss});
}
