/** @file Finds tfjs-node in the user's project and tries it in a separate process. */
import {existsSync, readFileSync} from 'node:fs';
import {createRequire} from 'node:module';
import {dirname, join} from 'node:path';
import {type Finished, run} from './run.js';
import {UserError, tail} from './user_error.js';

export const CPU_PACKAGE = '@tensorflow/tfjs-node';
export const GPU_PACKAGE = '@tensorflow/tfjs-node-gpu';
/** The version that is built and tested against. */
export const TFJS_NODE_VERSION = '4.22.0';

/** An installed tfjs-node or tfjs-node-gpu. */
export interface TfjsNode {
  name: string;
  version: string;
  folder: string;
  /** Path where it looks for its addon. */
  binding: string;
}

interface PackageJson {
  name: string;
  version: string;
  binary?: {module_name?: string; module_path?: string; napi_versions?: number[]};
}

/** The path that node-pre-gyp uses with this Node: in the folder of the newest Node-API version that both support. */
function bindingPath(folder: string, {binary}: PackageJson): string {
  const known = (binary?.napi_versions ?? [8]).filter((version) => version <= Number(process.versions.napi));
  const path = (binary?.module_path ?? './lib/napi-v{napi_build_version}').replace(
    '{napi_build_version}',
    String(Math.max(...known)),
  );
  return join(folder, path, `${binary?.module_name ?? 'tfjs_binding'}.node`);
}

function find(name: string, project: string): TfjsNode | null {
  try {
    const path = createRequire(join(project, 'x.js')).resolve(`${name}/package.json`);
    const json = JSON.parse(readFileSync(path, 'utf8')) as PackageJson;
    return {name, version: json.version, folder: dirname(path), binding: bindingPath(dirname(path), json)};
  } catch {
    return null;
  }
}

/** The tfjs-node packages of a project, the requested one first. */
export function findTfjsNode(project: string, gpu: boolean): TfjsNode[] {
  const names = gpu ? [GPU_PACKAGE, CPU_PACKAGE] : [CPU_PACKAGE, GPU_PACKAGE];
  return names.map((name) => find(name, project)).filter((found) => found !== null);
}

/** The package to set up. */
export function requireTfjsNode(project: string, gpu: boolean): TfjsNode {
  const [first] = findTfjsNode(project, gpu);
  if (first === undefined) {
    throw new UserError(
      `setup-node: the project must have ${CPU_PACKAGE}, got none from ${project}. Run ` +
        `"npm install --ignore-scripts ${CPU_PACKAGE}@${TFJS_NODE_VERSION}" there (without its own installer, which downloads ` +
        `an old TensorFlow), then the same command again.`,
    );
  }
  return first;
}

/** Facts that a working tfjs-node reports. */
export interface LoadedTfjsNode {
  tfjs: string;
  tensorflow: string;
  /** Whether operations run on a GPU. */
  usesGpu: boolean;
  /** Path of TensorFlow's library, if the system reports it. */
  library: string | null;
}

export type Trial = {works: true; loaded: LoadedTfjsNode; stderr: string} | {works: false; reason: string};

const MARK = 'TFJS_NODE_WORKS ';

/**
 * The program of the trial. Node 23 removed two functions that tfjs-node 4.22 calls in every operation.
 * `tfjs-flashmask/node` restores them in the same way.
 */
const TRIAL = `
const util = require('node:util');
util.isNullOrUndefined ??= (x) => x == null;
util.isArray ??= Array.isArray;
const tf = require(process.argv[1]);
const a = tf.tensor2d([[1, 2], [3, 4]]);
const product = [...tf.matMul(a, a).dataSync()].join();
if (product !== '7,10,15,22') throw new Error('its matMul gives ' + product + ' in place of 7,10,15,22');
let maps = '';
try { maps = require('node:fs').readFileSync('/proc/self/maps', 'utf8'); } catch {}
const library = /\\/.*\\/libtensorflow(_cc)?\\.so\\S*/.exec(maps);
const {binding, isUsingGpuDevice} = tf.backend();
console.log('${MARK}' + JSON.stringify({
  tfjs: tf.version['tfjs-node'] ?? tf.version.tfjs,
  tensorflow: binding.TF_Version,
  usesGpu: Boolean(isUsingGpuDevice),
  library: library && library[0],
}));
`;

/** The message of an uncaught error that a process of Node printed, without its stack. */
function errorOf(stderr: string): string {
  return /^(?:\w*Error: )(.*(?:\n(?!\s+at |Node\.js).*)*)/m.exec(stderr)?.[1].trim() || tail(stderr);
}

/** Far longer than the slowest machine takes to load TensorFlow. */
export const PROBE_TIMEOUT_MS = 120_000;

/** Why a process of a probe gave no result, in words that are never empty. */
export function reasonOf({code, signal, stderr, failure}: Finished, timeoutMs: number): string {
  if (failure === 'timeout') return `the process did not end within ${timeoutMs / 1000} seconds${tail(stderr)}`;
  if (signal) return `the process ended by ${signal}${tail(stderr)}`;
  return errorOf(stderr) || `the process ended with exit code ${code ?? failure}, and said nothing`;
}

/** Loads tfjs-node in a new process and multiplies two matrices with it. */
export async function tryTfjsNode({folder, binding}: TfjsNode, timeoutMs: number = PROBE_TIMEOUT_MS): Promise<Trial> {
  if (!existsSync(binding)) {
    return {works: false, reason: `its addon is missing: ${binding}`};
  }
  const env = {NODE_OPTIONS: '', TF_CPP_MIN_LOG_LEVEL: process.env.TF_CPP_MIN_LOG_LEVEL ?? '1'};
  const finished = await run(process.execPath, ['-e', TRIAL, folder], {env, timeoutMs});
  const {code, stdout, stderr} = finished;
  const line = stdout.split('\n').find((line) => line.startsWith(MARK));
  if (code === 0 && line !== undefined) {
    return {works: true, loaded: JSON.parse(line.slice(MARK.length)) as LoadedTfjsNode, stderr};
  }
  return {works: false, reason: reasonOf(finished, timeoutMs)};
}
