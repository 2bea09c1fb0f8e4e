/** @file The command line of `tfjs-flashmask` as a function, so that tests can run commands in their own process. */
import {readFileSync} from 'node:fs';
import {Command, CommanderError, Option} from 'commander';
import {examine} from './doctor.js';
import {copyExample, listExamples} from './example.js';
import {doctorText} from './doctor_text.js';
import {packageRoot} from './package_root.js';
import type {Console} from './progress.js';
import {endOnSignals} from './run.js';
import {type SetupNodeOptions, setupNode} from './setup_node.js';
import {TENSORFLOW_VERSION} from './pinned_wheels.js';
import {UserError} from './user_error.js';

/** The streams that a command writes to. */
export interface CommandOutput {
  /** One line, or several, on standard output. */
  print: (line: string) => void;
  /** Standard error, with progress. */
  console: Console;
}

/**
 * Runs one command in the current folder. It leaves no listeners.
 *
 * @param argv the arguments, without Node's own.
 * @returns the exit code.
 */
export async function run(argv: readonly string[], output: CommandOutput): Promise<number> {
  const forget = endOnSignals();
  let exitCode = 0;
  const finish = (code: number): void => {
    exitCode = code;
  };
  try {
    await program(output, finish).parseAsync(argv, {from: 'user'});
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) {
      return error.exitCode;
    }
    if (!(error instanceof UserError)) {
      throw error;
    }
    output.console.say(error.message);
    return 1;
  } finally {
    forget();
  }
}

/** Commands pass their exit code to `finish`. Default 0. */
function program({print, console}: CommandOutput, finish: (exitCode: number) => void): Command {
  const withoutBreak = (text: string): string => text.replace(/\n$/, '');
  const command = new Command('tfjs-flashmask')
    .description('Sets up tfjs-node, tells which backends FlashMask attention runs on here, and copies examples.')
    .version(packageVersion())
    .showHelpAfterError('Add --help for all options.')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => print(withoutBreak(text)),
      writeErr: (text) => console.say(withoutBreak(text)),
    });
  command
    .command('setup-node')
    .description(
      'makes @tensorflow/tfjs-node work in the project in this folder; changes nothing where it works already',
    )
    .option('--gpu', "TensorFlow with CUDA, and CUDA's libraries")
    .addOption(new Option('--tensorflow <version>', 'version of TensorFlow').default(undefined, TENSORFLOW_VERSION))
    .option('--force', 'set up again although it works')
    .action((options: SetupNodeOptions) => setupNode(process.cwd(), options, console));
  command
    .command('doctor')
    .description('tells per backend what is there, which kernels run, and how to fix what is missing or broken')
    .option('--json', 'as JSON')
    .action(async ({json}: {json?: boolean}) => {
      const report = await examine();
      print(json ? JSON.stringify(report, null, 2) : doctorText(report));
      finish(report.backends.some(({status}) => status === 'broken') ? 1 : 0);
    });
  command
    .command('example')
    .description('lists the examples; with a name, copies one into a folder')
    .argument('[name]', 'of the example')
    .argument('[folder]', 'new or empty (default: the name)')
    .action((name?: string, folder?: string) => {
      print(name === undefined ? listExamples() : copyExample(process.cwd(), name, folder));
    });
  return command;
}

function packageVersion(): string {
  const {version} = JSON.parse(readFileSync(new URL('package.json', packageRoot()), 'utf8')) as {version: string};
  return version;
}
