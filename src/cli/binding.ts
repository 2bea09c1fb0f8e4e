/** @file Builds tfjs-node's own addon, from the C++ sources in its package, against the TensorFlow in the cache. */
import {createHash} from 'node:crypto';
import {copyFileSync, existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {tmpdir} from 'node:os';
import {basename, dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {makeFolder} from '../node_webgpu/make_folder.js';
import {packageRoot} from './package_root.js';
import {run} from './run.js';
import {LIBRARIES, type TensorFlow, libraryFolders} from './tensorflow.js';
import {type TfjsNode, type Trial, TFJS_NODE_VERSION, tryTfjsNode} from './tfjs_node.js';
import {UserError, tail} from './user_error.js';

/** Written next to the binding: the TensorFlow that it was built against. */
const RECORD = 'tfjs-flashmask.json';

export interface BindingRecord {
  tensorflow: string;
  gpu: boolean;
  folder: string;
  /** sha256 of what this package adds to the binding: this repository's set-up builds it again after a change. */
  functions: string;
}

/** The Node-API version of tfjs-node's newest folder, `napi-v8`; Node 20 and newer have it. */
const NAPI_VERSION = 8;
const SOURCES = ['tfjs_backend.cc', 'tfjs_binding.cc'];
/** Includes tfjs_binding.cc and adds to it. */
const functionsPath = (): string => fileURLToPath(new URL('native/tfjs_node/functions.cc', packageRoot()));

export interface Compiler {
  command: string;
  /** First arguments, for `CXX` values of several words: `g++` of `ccache g++`. */
  args: string[];
  version: string;
}

/** @throws UserError if there is no C++ compiler. */
export async function findCompiler(): Promise<Compiler> {
  const chosen = process.env.CXX?.trim();
  for (const way of chosen ? [chosen] : ['g++', 'clang++', 'c++']) {
    const [command, ...args] = way.split(/\s+/);
    const {code, stdout} = await run(command, [...args, '--version']);
    if (code === 0) {
      return {command, args, version: stdout.split('\n')[0]};
    }
  }
  throw new UserError(
    `setup-node: a C++ compiler must be installed, which builds tfjs-node's addon, got ` +
      `${chosen ? `CXX=${chosen}, which does not run` : 'neither g++ nor clang++'}. Install one: "apt install g++" (Debian, ` +
      `Ubuntu), "dnf install gcc-c++" (Fedora, RHEL), or name yours in the environment variable CXX.`,
  );
}

/** The folder of Node-API's headers: in the repository an npm package, in the published package a part of dist/. */
function nodeHeaders(): string {
  try {
    const {include_dir} = createRequire(import.meta.url)('node-api-headers') as {include_dir: string};
    return include_dir;
  } catch {
    return fileURLToPath(new URL('dist/node-api', packageRoot()));
  }
}

/** Paths go to the linker as separate arguments, because they may contain commas. */
function linkerArguments(tensorflow: TensorFlow): string[] {
  const folders = libraryFolders(tensorflow.folder);
  const rpaths = folders.flatMap((folder) => ['-Xlinker', '-rpath', '-Xlinker', folder]);
  return [`-L${folders[0]}`, ...LIBRARIES.map((name) => `-l:${name}`), ...rpaths];
}

async function compile(compiler: Compiler, tfjsNode: TfjsNode, tensorflow: TensorFlow, out: string): Promise<void> {
  const folder = join(tfjsNode.folder, 'binding');
  const sources = SOURCES.map((name) => join(folder, name));
  const missing = sources.filter((path) => !existsSync(path));
  if (missing.length > 0) {
    throw new UserError(
      `setup-node: ${tfjsNode.name} must have its C++ sources, got ${tfjsNode.version} without ${missing.join(' and ')}. ` +
        `Reinstall it: "npm install --ignore-scripts ${tfjsNode.name}@${TFJS_NODE_VERSION}".`,
    );
  }
  const compiled = [sources[0], functionsPath()];
  const includes = [tfjsNode.folder, folder, join(tensorflow.folder, 'tensorflow', 'include'), nodeHeaders()];
  const flags = ['-std=c++17', '-O2', '-fPIC', '-shared', '-w', `-DNAPI_VERSION=${NAPI_VERSION}`];
  const args = [...flags, ...includes.map((include) => `-I${include}`), ...compiled, ...linkerArguments(tensorflow)];
  const {code, stdout, stderr} = await run(compiler.command, [...compiler.args, ...args, '-o', out]);
  if (code !== 0) {
    throw new UserError(
      `setup-node: the addon of ${tfjsNode.name} ${tfjsNode.version} must compile with C++17 against TensorFlow ` +
        `${tensorflow.version}, got errors of ${compiler.version}. Use g++ 8 or clang 7 or newer (environment variable CXX), or ` +
        `another TensorFlow (--tensorflow). The compiler says:${tail(`${stdout}${stderr}`, 15)}`,
    );
  }
}

/**
 * Moves the built file to where tfjs-node looks, by a rename, so that running processes keep the old file. Returns a
 * function that undoes it.
 */
function install(built: string, target: string): () => void {
  const draft = `${target}.${process.pid}.new`;
  const backup = `${target}.${process.pid}.old`;
  makeFolder(dirname(target));
  if (existsSync(target)) {
    copyFileSync(target, backup);
  }
  copyFileSync(built, draft);
  renameSync(draft, target);
  return () => {
    rmSync(target, {force: true});
    if (existsSync(backup)) {
      renameSync(backup, target);
    }
  };
}

async function installAndTry(built: string, tfjsNode: TfjsNode): Promise<Trial & {works: true}> {
  const undo = install(built, tfjsNode.binding);
  const trial = await tryTfjsNode(tfjsNode);
  if (!trial.works) {
    undo();
    throw new UserError(
      `setup-node: ${tfjsNode.name} ${tfjsNode.version} must work with the addon that was built for it, got: ${trial.reason} ` +
        `The addon that was there before is back. "npx tfjs-flashmask doctor" shows more; please report this.`,
    );
  }
  rmSync(`${tfjsNode.binding}.${process.pid}.old`, {force: true});
  return trial;
}

function explain(error: unknown, {binding}: TfjsNode): unknown {
  const {code} = error as NodeJS.ErrnoException;
  return ['EACCES', 'EPERM', 'EROFS'].includes(code ?? '')
    ? new UserError(
        `setup-node: the folder ${dirname(binding)} must be writable, got ${code}. Run the command as the user who ` +
          `installed the project's packages.`,
      )
    : error;
}

/**
 * Builds the binding, installs it, and tests it with a matMul in a separate process.
 *
 * @throws UserError, with the remedy, after restoring the former binding.
 */
export async function buildBinding(compiler: Compiler, tfjsNode: TfjsNode, tensorflow: TensorFlow): Promise<Trial> {
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-flashmask-'));
  const built = join(folder, basename(tfjsNode.binding));
  try {
    await compile(compiler, tfjsNode, tensorflow, built);
    const trial = await installAndTry(built, tfjsNode);
    const record: BindingRecord = {
      tensorflow: tensorflow.version,
      gpu: tensorflow.gpu,
      folder: tensorflow.folder,
      functions: createHash('sha256').update(readFileSync(functionsPath())).digest('hex'),
    };
    writeFileSync(join(dirname(tfjsNode.binding), RECORD), `${JSON.stringify(record, null, 2)}\n`);
    return trial;
  } catch (error) {
    throw explain(error, tfjsNode);
  } finally {
    rmSync(folder, {recursive: true, force: true});
  }
}
