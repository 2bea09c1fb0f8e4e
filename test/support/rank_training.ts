/** @file The commands sft, dpo and rm as one rank of several, in a process that is not the command's own. */
import {Command} from 'commander';
import {trainOn} from '../../examples/finetune/commands/train.js';
import {type TrainOptions, addTrainCommand} from '../../examples/finetune/commands/train_options.js';
import {type Io, Session, type StopReason} from '../../examples/finetune/io.js';
import {type Ranks, SharedError} from '../../examples/finetune/train/ranks.js';

/** A command line of every rank. */
export interface Training {
  args: readonly string[];
  /** Further arguments of some ranks. */
  more?: Readonly<Record<number, readonly string[]>>;
  /** A rank that is asked to stop after its first step. */
  stopped?: number;
}

/** How a training ended on one rank. */
export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
  error: string | null;
  /** Whether all ranks have the error. */
  shared: boolean;
}

export async function trainAsRank(ranks: Ranks, {args, more = {}, stopped}: Training): Promise<Ended> {
  const written = {stdout: '', stderr: ''};
  const session = new Session(recordingIo(written, stopped === ranks.rank));
  let code: number | null = null;
  let error: Error | null = null;
  try {
    code = await trainOn(ranks, optionsOf([...args, ...(more[ranks.rank] ?? [])]), session);
  } catch (thrown) {
    error = thrown as Error;
  }
  await session.end();
  return {code, ...written, error: error && error.message, shared: error instanceof SharedError};
}

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
