/**
 * @file Installs the packages of a folder with a lock file, unless they are already installed for the current lock
 * file. This is plain JavaScript without dependencies, because none are installed before it runs.
 */
import {spawnSync} from 'node:child_process';
import {createHash} from 'node:crypto';
import {readFileSync, statSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';

function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}

function isInstalled(folder, stamp, hash) {
  const installedFrom = read(stamp);
  if (installedFrom !== null) return installedFrom === hash;
  // The user ran `npm ci`. npm writes its own copy of the lock file last.
  const installed = statSync(join(folder, 'node_modules', '.package-lock.json'), {throwIfNoEntry: false});
  return installed !== undefined && installed.mtimeMs >= statSync(join(folder, 'package-lock.json')).mtimeMs;
}

function runNpmCi(folder) {
  const args = ['ci', '--ignore-scripts', '--include=dev', '--no-audit', '--no-fund'];
  const npm = process.env.npm_execpath;
  // The npm that runs this script may have set these for its own project.
  const {npm_config_local_prefix: _prefix, npm_config_global: _global, ...env} = process.env;
  const options = {cwd: folder, env, stdio: ['ignore', 'inherit', 'inherit']};
  const {status, error} = npm?.endsWith('js')
    ? spawnSync(process.execPath, [npm, ...args], options)
    : spawnSync('npm', args, {...options, shell: process.platform === 'win32'});
  if (status !== 0) {
    throw new Error(`npm ci failed in ${folder}${error ? `: ${error.message}` : ''}. Check the network and try again.`);
  }
}

/**
 * Installs the packages in the folder's lock file, without install scripts.
 *
 * @param what Text printed before an installation.
 * @throws Error if npm fails.
 */
export function installPackages(folder, what) {
  /** Holds the hash of the lock file that node_modules was installed from. */
  const stamp = join(folder, 'node_modules', '.tfjs-flashmask-lock');
  const hash = createHash('sha256')
    .update(readFileSync(join(folder, 'package-lock.json')))
    .digest('hex');
  if (!isInstalled(folder, stamp, hash)) {
    console.error(`Installing ${what} (once)...`);
    runNpmCi(folder);
  }
  if (read(stamp) !== hash) writeFileSync(stamp, hash);
}
