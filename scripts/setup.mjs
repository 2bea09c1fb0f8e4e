/**
 * @file Installs the dependencies where that has not been done for the present lock file, so that `npm start` and
 * `npm test` work right after a clone. Plain JavaScript without dependencies, since there are none yet.
 */
import {spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {readFileSync, statSync, writeFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const LOCK = `${root}package-lock.json`;
const INSTALLED = `${root}node_modules/.package-lock.json`;
/** Holds the hash of the lock file that node_modules was installed from. */
const STAMP = `${root}node_modules/.tfjs-flashmask-lock`;
const OLDEST_NODE = 20;

function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

function isInstalled(hash) {
  const stamp = read(STAMP);
  if (stamp !== null) {
    return stamp === hash;
  }
  // Somebody ran `npm ci` themselves: npm writes its own copy of the lock file last.
  const installed = statSync(INSTALLED, {throwIfNoEntry: false});
  return installed !== undefined && installed.mtimeMs >= statSync(LOCK).mtimeMs;
}

function install() {
  console.error('Installing the development dependencies (once; about a minute)...');
  const args = ['ci', '--ignore-scripts', '--include=dev', '--no-audit', '--no-fund'];
  const npm = process.env.npm_execpath;
  const options = {cwd: root, stdio: ['ignore', 'inherit', 'inherit']};
  const {status, error} = npm?.endsWith('js')
    ? spawnSync(process.execPath, [npm, ...args], options)
    : spawnSync('npm', args, {...options, shell: process.platform === 'win32'});
  if (status !== 0) {
    console.error(`npm ci failed${error ? `: ${error.message}` : ''}. Check the network and try again.`);
    process.exit(1);
  }
}

if (Number(process.versions.node.split('.')[0]) < OLDEST_NODE) {
  console.error(
    `tfjs-flashmask needs Node ${OLDEST_NODE} or newer, got ${process.versions.node}. Install a newer one.`,
  );
  process.exit(1);
}
const hash = createHash('sha256').update(readFileSync(LOCK)).digest('hex');
if (!isInstalled(hash)) {
  install();
}
if (read(STAMP) !== hash) {
  writeFileSync(STAMP, hash);
}
