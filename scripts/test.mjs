/**
 * @file `npm test [-- files and mocha options]`: sets up, with tfjs-node and the native addon, then runs mocha over all tests, or over
 * the files given.
 */
import {spawnSync} from 'node:child_process';
import {fileURLToPath} from 'node:url';
import './setup_native.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const args = process.argv.slice(2);
const files = args.some((arg) => arg.endsWith('.ts')) ? [] : ['test/**/*.test.ts'];
const mocha = [`${root}node_modules/mocha/bin/mocha.js`, '--import=tsx', '--reporter', 'scripts/reporter.cjs'];
// Long enough for a training run on a software adapter; a test that hangs still ends the run.
const limits = ['--timeout', '600000'];
const {status, signal} = spawnSync(process.execPath, [...mocha, ...limits, ...files, ...args], {
  cwd: root,
  stdio: 'inherit',
});
if (signal) {
  console.error(`mocha was killed by ${signal}`);
}
process.exit(status ?? 1);
