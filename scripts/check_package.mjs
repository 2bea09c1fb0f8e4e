/**
 * @file Checks the packed package with publint and attw: its entries, their declarations, and what each kind of import
 * resolves to.
 *
 *     npm run check:package [-- TARBALL]    checks the tarball, or one that it builds and packs
 */
import {spawnSync} from 'node:child_process';
import {mkdtempSync, rmSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join, resolve} from 'node:path';
import {fileURLToPath} from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'tfjs-flashmask-check-'));

function run(command, args, stdout = 'inherit') {
  const result = spawnSync(command, args, {cwd: root, stdio: ['ignore', stdout, 'inherit'], encoding: 'utf8'});
  if (result.status !== 0) process.exitCode = 1;
  return result;
}

function packHere() {
  run('npm', ['run', '--silent', 'build']);
  const {stdout} = run('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', folder], 'pipe');
  return join(folder, stdout.trim());
}

try {
  const tarball = process.argv[2] ? resolve(process.argv[2]) : packHere();
  run('npx', ['publint', '--strict', tarball]);
  run('npx', ['attw', tarball]);
} finally {
  rmSync(folder, {recursive: true, force: true});
}
