/**
 * @file `npm test [-- folders, files and mocha's options]`: sets up what the tests need, then runs them on as many
 * processes as there are cores, the longest files first. With mocha's options (`-g`, `--bail`, ...), mocha's own
 * command runs them in one process.
 *
 *     npm test -- test/mask                       one folder
 *     npm test -- test/op/kernels.test.ts -g lse  the tests of a file whose names contain `lse`
 *     npm run test:watch -- test/mask             again after each change of what the tests import
 *     npm run test:all                            all cases: sets FLASHMASK_FULL=1 (docs/testing.md)
 *     npm test -- --record                        all files, and writes their seconds to scripts/test_seconds.json
 */
import {spawnSync} from 'node:child_process';
import {existsSync, readFileSync, readdirSync, statSync, writeFileSync} from 'node:fs';
import {join, relative, sep} from 'node:path';
import {fileURLToPath} from 'node:url';
import './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
process.chdir(root);

const SECONDS = join('scripts', 'test_seconds.json');
/** Long enough for a training run on a software adapter; a test that hangs still ends the run. */
const TIMEOUT_MS = 600000;
/** Folders of tests that need npm's packages alone. All others get tfjs-node with TensorFlow, and the native addon. */
const WITHOUT_TENSORFLOW = ['bench', 'mask', 'node_webgpu', 'site', 'webgpu'];

const args = process.argv.slice(2);
const take = (flag) => args.includes(flag) && args.splice(args.indexOf(flag), 1).length > 0;
const record = take('--record');
const watch = take('--watch');
if (take('--all')) process.env.FLASHMASK_FULL = '1';

const isPath = (arg, i) => existsSync(arg) && !['-g', '--grep', '-f', '--fgrep'].includes(args[i - 1]);
const paths = args.filter(isPath);
const mochaOptions = args.filter((arg, i) => !isPath(arg, i));
const files = testFiles(paths.length > 0 ? paths : ['test']);
if (files.length === 0) {
  console.error(`The paths must hold test files (*.test.ts), got none in ${paths.join(', ')}. See test/.`);
  process.exit(1);
}

const folderOf = (file) => file.split('/')[1];
if (files.some((file) => !WITHOUT_TENSORFLOW.includes(folderOf(file)))) await import('./setup_native.mjs');
process.exit(mochaOptions.length > 0 || watch ? runMocha() : await runLanes());

/** The test files at the paths, each once, as `test/folder/name.test.ts`. */
function testFiles(from) {
  const found = from.flatMap((path) => {
    if (!statSync(path).isDirectory()) return [path];
    const below = readdirSync(path, {recursive: true}).map((name) => join(path, name));
    return below.filter((name) => name.endsWith('.test.ts'));
  });
  return [...new Set(found.map((path) => relative(root, path).split(sep).join('/')))].sort();
}

async function runLanes() {
  const secondsOf = JSON.parse(readFileSync(SECONDS, 'utf8'));
  const {runOnLanes} = await import('./test_lanes.mjs');
  const result = await runOnLanes(files, {timeout: TIMEOUT_MS, secondsOf});
  if (record) {
    const sorted = result.seconds.sort(([, a], [, b]) => b - a).map(([name, time]) => [name, Math.ceil(time)]);
    writeFileSync(SECONDS, `${JSON.stringify(Object.fromEntries(sorted), null, 2)}\n`);
  }
  return result.failed > 0 ? 1 : 0;
}

function runMocha() {
  const mocha = ['node_modules/mocha/bin/mocha.js', '--reporter', 'scripts/reporter.cjs', '--timeout', `${TIMEOUT_MS}`];
  const command = watch ? ['node_modules/tsx/dist/cli.mjs', 'watch'] : ['--import=tsx'];
  const {status, signal} = spawnSync(process.execPath, [...command, ...mocha, ...mochaOptions, ...files], {
    stdio: 'inherit',
  });
  if (signal) console.error(`mocha was killed by ${signal}`);
  return status ?? 1;
}
