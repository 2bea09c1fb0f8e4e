#!/usr/bin/env node
/** @file The command `tfjs-flashmask`. */
import {readFileSync} from 'node:fs';
import {Command, Option} from 'commander';
import {examine} from './doctor.js';
import {doctorText} from './doctor_text.js';
import {packageRoot} from './package_root.js';
import {type SetupNodeOptions, setupNode} from './setup_node.js';
import {TENSORFLOW_VERSION} from './tensorflow.js';
import {UserError} from './user_error.js';

const {version} = JSON.parse(readFileSync(new URL('package.json', packageRoot()), 'utf8')) as {version: string};

const program = new Command('tfjs-flashmask')
  .description('Sets up tfjs-node, and tells which backends FlashMask attention runs on here.')
  .version(version)
  .showHelpAfterError('Add --help for all options.');

program
  .command('setup-node')
  .description('makes @tensorflow/tfjs-node work in the project in this folder; changes nothing where it works already')
  .option('--gpu', "TensorFlow with CUDA, and CUDA's libraries")
  .addOption(new Option('--tensorflow <version>', 'version of TensorFlow').default(undefined, TENSORFLOW_VERSION))
  .option('--force', 'set up anew although it works')
  .action((options: SetupNodeOptions) => setupNode(process.cwd(), options));

program
  .command('doctor')
  .description('tells per backend what is there, which kernels run, and how to mend what is missing or broken')
  .option('--json', 'as JSON')
  .action(async ({json}: {json?: boolean}) => {
    const report = await examine();
    console.log(json ? JSON.stringify(report, null, 2) : doctorText(report));
    process.exitCode = report.backends.some(({status}) => status === 'broken') ? 1 : 0;
  });

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof UserError)) {
    throw error;
  }
  console.error(error.message);
  process.exitCode = 1;
}
