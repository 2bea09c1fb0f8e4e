/** @file Projects of a user who has installed the packed package, each in its own folder outside the repository. */
import {spawn, spawnSync} from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  rmdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import {tmpdir} from 'node:os';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** The packages that a user of every entry has installed. They are links, because they are on this disk already. */
const PEERS = ['@tensorflow', '@sparticuz', '@types', '@webgpu', 'webgpu', 'undici-types'];

export interface Finished {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

const made: string[] = [];
let tarball: string | undefined;

/** A new folder that goes with this process: all test files share one build. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-flashmask-test-'));
  made.push(folder);
  return folder;
}

process.once('exit', () => {
  made.forEach((folder) => {
    rmSync(folder, {recursive: true, force: true});
  });
});

function mustRun(command: string, args: string[], cwd: string): void {
  const {status, stdout, stderr, error} = spawnSync(command, args, {cwd, encoding: 'utf8'});
  if (status !== 0) {
    throw new Error(`${command} ${args.join(' ')}: ${error?.message ?? `${stdout}\n${stderr}`}`);
  }
}

/**
 * The packed package. `FLASHMASK_TARBALL` names the file that all test processes of a run share. The first process that
 * needs the package builds and packs it, unless the run did so before.
 */
export function packedTarball(): string {
  tarball ??= sharedTarball(process.env.FLASHMASK_TARBALL || join(temporaryFolder(), 'tfjs-flashmask.tgz'));
  return tarball;
}

function sharedTarball(path: string): string {
  while (!existsSync(path)) {
    try {
      mkdirSync(`${path}.lock`);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      // Another process is building.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
      continue;
    }
    try {
      if (!existsSync(path)) pack(path);
    } finally {
      rmdirSync(`${path}.lock`);
    }
  }
  return path;
}

function pack(path: string): void {
  const folder = temporaryFolder();
  mustRun(process.execPath, ['--import=tsx', 'scripts/build.ts'], root);
  mustRun('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', folder], root);
  const [name] = readdirSync(folder);
  copyFileSync(join(folder, name), `${path}.tmp`);
  renameSync(`${path}.tmp`, path);
}

/** A project with the packed package and its peers, except `without`. */
export class Project {
  readonly folder = temporaryFolder();

  constructor({type = 'module', without = [] as string[]} = {}) {
    const modules = join(this.folder, 'node_modules');
    mkdirSync(join(modules, 'tfjs-flashmask'), {recursive: true});
    this.write('package.json', JSON.stringify({name: 'a-project', private: true, type}));
    mustRun('tar', ['-xzf', packedTarball(), '--strip-components=1', '-C', join(modules, 'tfjs-flashmask')], root);
    PEERS.filter((peer) => !without.includes(peer)).forEach((name) => {
      this.link(name);
    });
  }

  /** Installs a package of the repository by a link. Default name: the package's own. */
  link(name: string, as = name): void {
    const path = join(this.folder, 'node_modules', as);
    mkdirSync(dirname(path), {recursive: true});
    symlinkSync(join(root, 'node_modules', name), path, 'junction');
  }

  write(name: string, content: string): string {
    const path = join(this.folder, name);
    mkdirSync(dirname(path), {recursive: true});
    writeFileSync(path, content);
    return path;
  }

  /** Starts Node on a file of the project. */
  start(args: string[], env: NodeJS.ProcessEnv = {}): Promise<Finished> {
    const child = spawn(process.execPath, args, {cwd: this.folder, env: {...process.env, NODE_OPTIONS: '', ...env}});
    const finished: Finished = {code: null, signal: null, stdout: '', stderr: ''};
    child.stdout.on('data', (data: Buffer) => (finished.stdout += data.toString()));
    child.stderr.on('data', (data: Buffer) => (finished.stderr += data.toString()));
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => {
        resolve({...finished, code, signal});
      });
    });
  }

  /**
   * Writes a script, runs it in Node and returns its output. Throws unless the process ends by itself with exit code 0.
   */
  async run(name: string, script: string, env: NodeJS.ProcessEnv = {}): Promise<Finished> {
    const finished = await this.start([this.write(name, script)], env);
    if (finished.code !== 0) {
      throw new Error(
        `${name}: exit code ${finished.code}, signal ${finished.signal}\n${finished.stdout}${finished.stderr}`,
      );
    }
    return finished;
  }
}
