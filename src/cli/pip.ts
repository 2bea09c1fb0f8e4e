/** @file Downloads wheels through pip, which knows the user's package index, proxy and certificates. */
import {mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync} from 'node:fs';
import {join} from 'node:path';
import {makeFolder} from '../node_webgpu/make_folder.js';
import {filesBelow} from './files.js';
import type {Platform} from './platform.js';
import {describePlatform, platformTags} from './platform.js';
import type {Console, Progress} from './progress.js';
import {type Finished, run} from './run.js';
import {UserError, tail} from './user_error.js';

/** The command that starts pip. */
export interface Pip {
  command: string;
  args: string[];
}

/**
 * Python versions to request wheels for, whichever Python is installed here. Only the C++ libraries of a wheel are
 * used, and they are the same for all Python versions. Newer and older TensorFlow versions lack wheels for some of
 * these.
 */
const PYTHON_VERSIONS = ['3.12', '3.11', '3.10', '3.13', '3.14'];

const WAYS: [string, string[]][] = [
  ['python3', ['-m', 'pip']],
  ['python', ['-m', 'pip']],
  ['pip3', []],
  ['pip', []],
];

/** Name prefix of the folders that an interrupted download leaves. */
const TEMPORARY = '.pip-';
const POLL_MS = 200;

/** @throws UserError if there is no Python, or none with pip. */
export async function findPip(): Promise<Pip> {
  let python = '';
  for (const [command, args] of WAYS) {
    const {code, stdout} = await run(command, [...args, '--version']);
    if (code === 0 && stdout.startsWith('pip ')) {
      return {command, args};
    }
    if (python === '' && command.startsWith('python')) {
      const version = await run(command, ['--version']);
      python = version.code === 0 ? version.stdout.trim() : '';
    }
  }
  const got = python ? `${python} without it` : 'no Python';
  const packages = python ? 'python3-pip' : 'python3 python3-pip';
  throw new UserError(
    `setup-node: Python's pip must be installed, which downloads TensorFlow, got ${got}. Install it: ` +
      `"apt install ${packages}" (Debian, Ubuntu), "dnf install ${packages}" (Fedora, RHEL)` +
      `${python ? ', or "python3 -m ensurepip --user"' : ''}.`,
  );
}

/** The request for one wheel. */
export interface Wanted {
  /** In pip's form, for example `tensorflow-cpu==2.21.0`. */
  requirement: string;
  platform: Platform;
  /** Folder that the complete wheel is moved to. */
  folder: string;
}

function arguments_(wanted: Wanted, pythonVersion: string, folder: string): string[] {
  const platforms = platformTags(wanted.platform).flatMap((tag) => ['--platform', tag]);
  const python = ['--python-version', pythonVersion, '--implementation', 'cp'];
  const quiet = ['--disable-pip-version-check', '--no-input', '--progress-bar', 'off'];
  const what = ['--no-deps', '--only-binary=:all:', '--dest', folder, wanted.requirement];
  return ['download', ...quiet, ...python, ...platforms, ...what];
}

/** Bytes of the wheels in a folder; pip's own copies have other names. */
function wheelBytes(folder: string): number {
  const wheels = filesBelow(folder).filter((path) => path.endsWith('.whl'));
  return wheels.reduce((bytes, path) => bytes + (statSync(path, {throwIfNoEntry: false})?.size ?? 0), 0);
}

const UNITS: Record<string, number> = {bytes: 1, kB: 1e3, MB: 1e6, GB: 1e9};

/** The size in pip's line `Downloading x.whl (274.0 MB)`. */
function announcedSize(output: string): number | undefined {
  const match = /\((\d+(?:\.\d+)?) (bytes|kB|MB|GB)\)/.exec(output);
  return match ? Number(match[1]) * UNITS[match[2]] : undefined;
}

/** Shows progress by the size of pip's files, because pip shows no bar when a program reads its output. */
function follow(folder: string, progress: Progress): {onOutput: (text: string) => void; stop: () => void} {
  let total: number | undefined;
  let bytes = 0;
  const timer = setInterval(() => {
    try {
      // pip moves a wheel elsewhere when it is complete.
      bytes = Math.max(bytes, wheelBytes(folder));
      progress.update(bytes, total);
    } catch {
      // pip removed a folder while it was being listed.
    }
  }, POLL_MS);
  return {
    onOutput: (text) => (total ??= announcedSize(text)),
    stop: () => {
      clearInterval(timer);
      progress.stop();
    },
  };
}

const OFFLINE = /connection broken|NewConnectionError|Name or service not known|Temporary failure in name resolution/i;
const UNREACHABLE = /ConnectTimeout|ReadTimeout|Connection refused|ProxyError|SSLError|Max retries exceeded/i;
const NOT_FOUND = /No matching distribution found|Could not find a version that satisfies/;

/** `versions` of pip's "(from versions: ...)", or '' for none. */
function knownVersions(output: string): string {
  const versions = /\(from versions: ([^)]*)\)/.exec(output)?.[1] ?? 'none';
  return versions === 'none' ? '' : versions;
}

type Failure = 'offline' | 'not found' | 'no space' | 'damaged' | 'other';

function kindOf(output: string): Failure {
  const kinds: [Failure, boolean][] = [
    ['no space', /No space left on device|Errno 28/.test(output)],
    ['damaged', output.includes('DO NOT MATCH THE HASHES')],
    ['offline', (OFFLINE.test(output) || UNREACHABLE.test(output)) && knownVersions(output) === ''],
    ['not found', NOT_FOUND.test(output)],
  ];
  return kinds.find(([, is]) => is)?.[0] ?? 'other';
}

function failureMessage(kind: Failure, {requirement, platform, folder}: Wanted, output: string): string {
  const again = 'Then run the same command again.';
  const wheel = `a wheel of ${requirement} for ${describePlatform(platform)}`;
  const versions = knownVersions(output).split(', ').slice(-12).join(', ');
  const messages: Record<Failure, string> = {
    offline:
      `setup-node: the Python package index must be reachable, got no answer from it. Check the network, or the proxy ` +
      `and index that pip uses ("python3 -m pip config list"). ${again}`,
    'not found':
      `setup-node: the Python package index must have ${wheel}, got ${versions ? `only ${versions}` : 'none'}. ` +
      `Choose another version with --tensorflow, or check pip's index ("python3 -m pip config list").`,
    'no space': `setup-node: the disk must have room for ${requirement}, got none at ${folder}. Free some. ${again}`,
    damaged:
      `setup-node: ${requirement} must have the checksum that the package index tells, got another: the download was ` +
      `damaged or the index's cache is. Run the same command again; if that does not help, "python3 -m pip cache purge".`,
    other: `setup-node: pip must download ${requirement}, got an error of it. Fix what it names. ${again}`,
  };
  return `${messages[kind]} pip says:${tail(output)}`;
}

async function tryDownload(pip: Pip, wanted: Wanted, version: string, output: Console): Promise<Finished | string> {
  const temporary = mkdtempSync(join(wanted.folder, TEMPORARY));
  const [inProgress, complete] = [join(temporary, 'tmp'), join(temporary, 'out')];
  mkdirSync(inProgress);
  mkdirSync(complete);
  const {onOutput, stop} = follow(inProgress, output.start(`Downloading ${wanted.requirement}`));
  try {
    const args = [...pip.args, ...arguments_(wanted, version, complete)];
    const finished = await run(pip.command, args, {env: {TMPDIR: inProgress}, onOutput});
    const wheel = readdirSync(complete).find((name) => name.endsWith('.whl'));
    if (finished.code !== 0 || wheel === undefined) {
      return finished;
    }
    renameSync(join(complete, wheel), join(wanted.folder, wheel));
    return join(wanted.folder, wheel);
  } finally {
    stop();
    rmSync(temporary, {recursive: true, force: true});
  }
}

/**
 * Downloads one wheel, without its dependencies, and returns its path. pip compares its checksum with that of the
 * package index. An interrupted download leaves no wheel, only a folder, which is removed here.
 *
 * @throws UserError, with the remedy, if the download fails.
 */
export async function downloadWheel(pip: Pip, wanted: Wanted, output: Console): Promise<string> {
  makeFolder(wanted.folder);
  for (const name of readdirSync(wanted.folder).filter((name) => name.startsWith(TEMPORARY))) {
    rmSync(join(wanted.folder, name), {recursive: true, force: true});
  }
  let said = '';
  for (const version of PYTHON_VERSIONS) {
    const finished = await tryDownload(pip, wanted, version, output);
    if (typeof finished === 'string') {
      return finished;
    }
    said = `${finished.stdout}${finished.stderr}`;
    if (kindOf(said) !== 'not found') {
      break;
    }
  }
  throw new UserError(failureMessage(kindOf(said), wanted, said));
}
