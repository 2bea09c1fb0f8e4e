/**
 * @file `npm run lint:native` and `npm run lint:python`: clang-format over native/, ruff over all Python, at exact
 * versions from PyPI.
 *
 *     node scripts/lint_pip.mjs native           fails if clang-format would change a file
 *     node scripts/lint_pip.mjs python           fails if ruff finds a fault
 *     node scripts/lint_pip.mjs native --fix     changes the files
 *
 * The tools are installed once, into .cache/. If pip cannot install them, the check is skipped with the reason.
 */
import {spawnSync} from 'node:child_process';
import {existsSync, mkdirSync, renameSync, rmSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const CLANG_FORMAT = {name: 'clang-format', version: '23.1.5'};
const RUFF = {name: 'ruff', version: '0.17.6'};

/** The tool's program, installed if necessary; null, after a line on the console, if it cannot be installed. */
function program({name, version}) {
  const folder = join(root, '.cache', `${name}-${version}`);
  const path = join(folder, 'bin', name);
  if (existsSync(path)) return path;
  const partial = `${folder}.${process.pid}`;
  mkdirSync(partial, {recursive: true});
  const quick = ['--quiet', '--disable-pip-version-check', '--retries', '1', '--timeout', '15'];
  const args = ['-m', 'pip', 'install', ...quick, '--no-deps', '--target', partial, `${name}==${version}`];
  const {status, stderr, error} = spawnSync('python3', args, {encoding: 'utf8'});
  if (status === 0 && !existsSync(folder)) renameSync(partial, folder);
  rmSync(partial, {recursive: true, force: true});
  if (existsSync(path)) return path;
  const reason = error ? 'there is no python3' : (stderr.trim().split('\n').at(-1) ?? '');
  console.log(`SKIPPED: ${name} ${version} cannot be installed by pip: ${reason}`);
  return null;
}

function tracked(...patterns) {
  const {stdout, status} = spawnSync('git', ['ls-files', '-z', ...patterns], {cwd: root, encoding: 'utf8'});
  if (status !== 0) throw new Error('lint: the files must be in a git clone. Clone the repository.');
  return stdout.split('\0').filter((path) => path !== '' && existsSync(join(root, path)));
}

/** Commands of a check, and of its fix, as lists of arguments. */
const CHECKS = {
  native: {
    tool: CLANG_FORMAT,
    check: () => [['--dry-run', '--Werror', ...sources()]],
    fix: () => [['-i', ...sources()]],
  },
  python: {
    tool: RUFF,
    check: () => [
      ['check', '.'],
      ['format', '--check', '.'],
    ],
    fix: () => [
      ['check', '--fix', '.'],
      ['format', '.'],
    ],
  },
};

const sources = () => tracked('native/*.h', 'native/*.cc', 'native/*.cu', 'native/*.cuh');

const [what, option] = process.argv.slice(2);
if (!(what in CHECKS) || (option !== undefined && option !== '--fix')) {
  console.error('lint: give native or python, and --fix to change the files.');
  process.exit(2);
}
const {tool, check, fix} = CHECKS[what];
const path = program(tool);
if (path !== null) {
  const commands = option === '--fix' ? fix() : check();
  // clang-format's program is a Python script, which finds its module through PYTHONPATH.
  const env = {...process.env, PYTHONPATH: dirname(dirname(path))};
  const codes = commands.map((args) => spawnSync(path, args, {cwd: root, stdio: 'inherit', env}).status);
  if (codes.some((code) => code !== 0)) {
    console.error(`lint:${what} failed. \`npm run lint:${what} -- --fix\` fixes what can be fixed.`);
    process.exitCode = 1;
  }
}
