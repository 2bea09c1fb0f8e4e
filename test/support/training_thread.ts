/** @file The thread of `training_threads.ts`: the commands sft, dpo and rm as one rank of several. */
import {parentPort, workerData} from 'node:worker_threads';
import {Command} from 'commander';
import {trainOn} from '../../examples/finetune/commands/train.js';
import {type TrainOptions, addTrainCommand} from '../../examples/finetune/commands/train_options.js';
import {type Io, Session, type StopReason} from '../../examples/finetune/io.js';
import {SharedError} from '../../examples/finetune/train/ranks.js';
import {threadRanks} from './thread_ranks.js';
import type {Ended, ThreadData, Training} from './training_threads.js';

const {memory, rank, size} = workerData as ThreadData;

function optionsOf(args: readonly string[]): TrainOptions {
  let options: TrainOptions | null = null;
  const command = new Command().exitOverride();
  for (const objective of ['sft', 'dpo', 'rm'] as const) {
    addTrainCommand(command, objective, async (given) => void (options = given));
  }
  command.parse(args, {from: 'user'});
  return options!;
}

/** Collects what is written, and asks to stop at the first line of a step if `stops` is set. */
function recordingIo(written: {stdout: string; stderr: string}, stops: boolean): Io {
  let stop: ((reason: StopReason) => void) | null = null;
  const write = (text: string): void => {
    written.stdout += text;
    if (!stops || !text.startsWith('step ')) return;
    stop?.('SIGINT');
    stop = null;
  };
  return {
    write,
    say: (line) => write(`${line}\n`),
    warn: (line) => void (written.stderr += `${line}\n`),
    terminal: null,
    onStop(listener) {
      stop = listener;
      return () => void (stop = null);
    },
  };
}

async function trained({args, more = {}, stopped}: Training): Promise<Ended> {
  const written = {stdout: '', stderr: ''};
  const session = new Session(recordingIo(written, stopped === rank));
  const ranks = threadRanks(memory, rank, size);
  let code: number | null = null;
  let error: Error | null = null;
  try {
    code = await trainOn(ranks, optionsOf([...args, ...(more[rank] ?? [])]), session);
  } catch (thrown) {
    error = thrown as Error;
  }
  await session.end();
  return {code, ...written, error: error && error.message, shared: error instanceof SharedError, calls: ranks.calls};
}

parentPort!.on('message', (training: Training) => {
  void trained(training).then((ended) => parentPort!.postMessage(ended));
});
