/**
 * @file Sets up the backend 'tensorflow' for tests and fine-tuning: tfjs-node with `tfjs-flashmask setup-node`, and the
 * native addon. If pip, a compiler or the network is missing, it says so and continues; tests of that backend are then
 * skipped.
 */
import {spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {existsSync, lstatSync, readFileSync, readdirSync, rmSync, symlinkSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {installPackages} from './install.mjs';
import './setup.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
/**
 * tfjs-node has a separate lock file, so that its install script does not run when the repository is installed from a
 * git URL.
 */
const NESTED = join(root, 'test', 'tfjs_node');
const LINK = join(root, 'node_modules', '@tensorflow', 'tfjs-node');
/** setup-node writes this next to the binding that it builds: the TensorFlow version and its folder. */
const RECORD = join(LINK, 'lib', 'napi-v8', 'tfjs-flashmask.json');
const BUILD = join(root, 'scripts', 'build_native.mjs');

/** What setup-node adds to tfjs-node's binding. */
const FUNCTIONS = join(root, 'native', 'tfjs_node', 'functions.cc');

/** Installs tfjs-node and links it into the repository's packages, so that it uses their tfjs. */
function provideTfjsNode() {
  installPackages(NESTED, 'tfjs-node');
  const packages = join(NESTED, 'node_modules', '@tensorflow');
  // Without its own copies of tfjs, it uses those of the root folder.
  for (const name of readdirSync(packages).filter((name) => name !== 'tfjs-node')) {
    rmSync(join(packages, name), {recursive: true});
  }
  if (lstatSync(LINK, {throwIfNoEntry: false})?.isSymbolicLink()) return;
  rmSync(LINK, {recursive: true, force: true});
  symlinkSync(join(packages, 'tfjs-node'), LINK, 'junction');
}

/** Whether an earlier run set it up, by a quick check. */
function isSetUp() {
  try {
    const sha256 = createHash('sha256').update(readFileSync(FUNCTIONS)).digest('hex');
    const {folder, functions} = JSON.parse(readFileSync(RECORD, 'utf8'));
    return functions === sha256 && existsSync(join(folder, 'tensorflow', 'libtensorflow_cc.so.2'));
  } catch {
    return false;
  }
}

/** Runs a script of this repository. If it fails, this script continues. */
function tryTo(what, args) {
  const {status} = spawnSync(process.execPath, args, {cwd: root, stdio: ['ignore', 'inherit', 'inherit']});
  if (status !== 0) {
    console.error(`SKIPPED: ${what} (the reason is above). What needs it is skipped, with this reason.`);
  }
}

try {
  provideTfjsNode();
} catch (error) {
  console.error(`SKIPPED: tfjs-node (${error.message}). What needs it is skipped.`);
}
if (existsSync(LINK) && !isSetUp()) {
  console.error('Setting up tfjs-node (once; TensorFlow is a download of 274 MB)...');
  tryTo('tfjs-node', ['--import=tsx', 'src/cli/main.ts', 'setup-node', '--force']);
}
if (existsSync(BUILD)) {
  // Compiling CUDA code for one architecture takes a quarter of the time, and the tests run on no other.
  tryTo('the native addon', process.env.FLASHMASK_FULL === '1' ? [BUILD] : [BUILD, '--one-arch']);
}
