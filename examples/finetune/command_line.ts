/** @file The command line of the fine-tuning application as a function, so that tests can run commands in-process. */
import {Command, CommanderError} from 'commander';
import type {Place} from '../../src/distributed/launcher.js';
import {clearBoundsCache} from '../../src/entries/index.js';
import {applyConfig} from './commands/config.js';
import {addDemoCommand} from './commands/demo.js';
import {type GenerateCommandOptions, generate} from './commands/generate.js';
import {ioOfRank, ofRank, placeAmongRanks} from './commands/launched.js';
import {type MergeOptions, merge} from './commands/merge.js';
import {type ScoreOptions, score} from './commands/score.js';
import {train} from './commands/train.js';
import {addTrainCommand, backendOption, whole, within} from './commands/train_options.js';
import {type Io, Session} from './io.js';
import {SharedError} from './train/ranks.js';

const EXAMPLES = `
Examples:
  npm run finetune -- sft --lora --steps 30                            SmolLM2-135M on instructions
  npm run finetune -- dpo --lora --model my-model --data pairs.jsonl   preferences of your own
  npm run finetune -- sft --lora --resume --steps 30                   go on after Ctrl-C, or with more steps
  npm run finetune -- sft --config my-run.yaml --seed 1                options from a file
  npm run finetune -- generate --adapter checkpoints/sft --prompt "Why is the sky blue?"
  npm run finetune -- merge --adapter checkpoints/sft --output merged`;

/** Commands that take tfjs-node where it is set up. `merge` only adds matrices: it takes what there is. */
const ON_TENSORFLOW: readonly string[] = ['sft', 'dpo', 'rm', 'generate', 'score'];
/** Commands that several processes of a launcher can run together. */
const ON_RANKS: readonly string[] = ['sft', 'dpo', 'rm'];

/**
 * Runs one command. Afterwards there are no tensors, listeners or open files left, and the former tfjs backend is
 * current.
 *
 * @param argv The arguments, without those of Node.
 * @param setUp Sets up tfjs-node. Called only for a command that runs on it, once all its options are right.
 * @returns the exit code. Of several processes of a launcher, rank 0 speaks for all.
 * @example await run(['sft', '--model', 'my-model', '--data', 'pairs.jsonl'], processIo) // 0
 */
export async function run(argv: readonly string[], io: Io, setUp: () => void = () => {}): Promise<number> {
  let rank = 0;
  try {
    rank = placeAmongRanks()?.rank ?? 0;
    return await runCommand(argv, new Session(ioOfRank(io, rank)), setUp, (text) => io.warn(ofRank(rank, text)));
  } catch (error) {
    if (error instanceof CommanderError) {
      return error.exitCode;
    }
    // What all ranks have, rank 0 tells.
    if (error instanceof SharedError && rank > 0) return 1;
    io.warn(ofRank(rank, `Error: ${error instanceof Error ? error.message : String(error)}`));
    return 1;
  }
}

async function runCommand(
  argv: readonly string[],
  session: Session,
  setUp: () => void,
  warn: (text: string) => void,
): Promise<number> {
  let exitCode = 0;
  const finish = (code: number): void => {
    exitCode = code;
  };
  try {
    await program(session, finish, setUp, warn)
      .hook('preAction', (_, command) => {
        applyConfig(command);
        const place = placeAmongRanks();
        if (place !== null) {
          checkRunsOnRanks(command.name(), place);
          return;
        }
        const {backend} = command.opts<{backend?: string}>();
        const canUseIt = backend === 'auto' || backend === 'tensorflow';
        if (canUseIt && ON_TENSORFLOW.includes(command.name())) setUp();
      })
      .parseAsync(argv, {from: 'user'});
    return exitCode;
  } finally {
    // Otherwise the bounds of masks stay on the device as long as the masks do.
    clearBoundsCache();
    await session.end();
  }
}

/** Sets nothing up: processes that do the same at once would be in each other's way. */
function checkRunsOnRanks(name: string, {launcher, size}: Place): void {
  if (ON_RANKS.includes(name)) return;
  throw new Error(`${name} runs in one process, but ${launcher} has started ${size}. Start it without a launcher.`);
}

/** Commands tell their exit code to `finish`; it is 0 unless they do. `warn` takes what is wrong with arguments. */
function program(
  session: Session,
  finish: (exitCode: number) => void,
  setUp: () => void,
  warn: (text: string) => void,
): Command {
  const {io} = session;
  const command = new Command('npm run finetune --')
    .description('Fine-tunes Llama models on packed sequences with flashMaskAttention.')
    .addHelpText('after', EXAMPLES)
    .showHelpAfterError('Add --help to see what there is.')
    .exitOverride()
    .configureOutput({writeOut: io.write, writeErr: (text) => warn(text.replace(/\n$/, ''))});
  for (const objective of ['sft', 'dpo', 'rm'] as const) {
    addTrainCommand(command, objective, async (options) => finish(await train(options, session)));
  }
  addTrained(command.command('generate').description('Answers a prompt with what was trained.'))
    .requiredOption('--prompt <text>', 'what it answers')
    .option('--system <text>', 'instructions before the prompt')
    .option('--max-new-tokens <number>', 'longest answer', whole(1), 200)
    .option('--temperature <number>', '0 always takes the likeliest token', within(0, Infinity), 0)
    .option('--top-p <fraction>', 'draw from the likeliest tokens that make this much', within(0, 1), 1)
    .option('--seed <number>', 'of the draws', whole(0), 0)
    .action((options: GenerateCommandOptions) => generate(options, session));
  addTrained(command.command('score').description('Scores answers to a prompt with a reward model.'))
    .requiredOption('--prompt <text>', 'what they answer')
    .requiredOption('--answers <texts...>', 'one or more')
    .action((options: ScoreOptions) => score(options, session));
  command
    .command('merge')
    .description('Adds an adapter to its base model: a Hugging Face folder.')
    .requiredOption('--adapter <folder>', 'a PEFT folder, or the --output of a run')
    .requiredOption('--output <folder>', 'where the model goes')
    .option('--model <name>', 'the base model, if it is not where the adapter says')
    .addOption(backendOption())
    .action((options: MergeOptions) => merge(options, session));
  addDemoCommand(command, session, finish, setUp);
  return command;
}

function addTrained(command: Command): Command {
  return command
    .option('--model <name>', 'smollm2, a folder, a .gguf file, owner/name of a hub, or the --output of a run')
    .option('--adapter <folder>', 'a PEFT folder, or the --output of a run with --lora')
    .addOption(backendOption());
}
