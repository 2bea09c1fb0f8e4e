/** @file A Python that has Keras: the user's own, or a virtual environment in the cache, which pip fills once. */
import {spawnSync} from 'node:child_process';
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {cacheFolder, makeCacheFolder} from '../../src/node_webgpu/cache_folder.js';

/** Exact versions, so that a judgement can be repeated. */
const PACKAGES = ['keras==3.15.1', 'jax[cpu]==0.10.2'];
const PIP = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--retries', '1', '--timeout', '30'];

const python = process.env.FLASHMASK_PYTHON ?? 'python3';

function hasKeras(command: string): boolean {
  const env = {...process.env, KERAS_BACKEND: 'jax'};
  return spawnSync(command, ['-c', 'import keras, jax'], {env}).status === 0;
}

/** The command of a Python with Keras, or why there is none. */
export function kerasPython(): {command: string} | {reason: string} {
  if (hasKeras(python)) return {command: python};
  const folder = join(cacheFolder(), 'keras-3.15.1-jax-0.10.2');
  const command = join(folder, 'bin', 'python');
  if (existsSync(command) && hasKeras(command)) return {command};
  makeCacheFolder(cacheFolder());
  const steps: [string, string[]][] = [
    [python, ['-m', 'venv', '--clear', folder]],
    [command, [...PIP, ...PACKAGES]],
  ];
  for (const [program, args] of steps) {
    const {status, stderr, error} = spawnSync(program, args, {encoding: 'utf8'});
    if (status !== 0) return {reason: error?.message ?? stderr.trim().split('\n').at(-1) ?? 'pip failed'};
  }
  return {command};
}
