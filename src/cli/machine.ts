/** @file Reads the facts of this machine that decide which kernels run: processor, GPUs, CUDA. */
import {existsSync} from 'node:fs';
import {join} from 'node:path';
import {type Platform, type Processor, describePlatform, thisPlatform, thisProcessor} from './platform.js';
import {run} from './run.js';

/** NVIDIA's GPUs and driver. */
export interface Nvidia {
  driver: string;
  gpus: {name: string; computeCapability: string; memory: string}[];
}

export interface Machine {
  platform: Platform;
  processor: Processor;
  node: string;
  /** Null if `nvidia-smi` does not run. */
  nvidia: Nvidia | null;
  /** Version of nvcc; null without it. */
  cudaToolkit: string | null;
}

const FIELDS = 'driver_version,name,compute_cap,memory.total';

async function findNvidia(): Promise<Nvidia | null> {
  const {code, stdout} = await run('nvidia-smi', [`--query-gpu=${FIELDS}`, '--format=csv,noheader']);
  const rows = stdout
    .trim()
    .split('\n')
    .map((line) => line.split(',').map((field) => field.trim()))
    .filter((fields) => fields.length === FIELDS.split(',').length);
  if (code !== 0 || rows.length === 0) {
    return null;
  }
  const gpus = rows.map(([, name, computeCapability, memory]) => ({name, computeCapability, memory}));
  return {driver: rows[0][0], gpus};
}

async function findToolkit(): Promise<string | null> {
  const {NVCC, CUDA_HOME, CUDA_PATH} = process.env;
  const homes = [CUDA_HOME, CUDA_PATH, '/usr/local/cuda'].filter((home) => home !== undefined);
  const inHomes = homes.map((home) => join(home, 'bin', 'nvcc')).filter((path) => existsSync(path));
  for (const command of [...(NVCC ? [NVCC] : []), 'nvcc', ...inHomes]) {
    const {code, stdout} = await run(command, ['--version']);
    if (code === 0) {
      return /release (\d+\.\d+)/.exec(stdout)?.[1] ?? 'unknown version';
    }
  }
  return null;
}

export async function thisMachine(): Promise<Machine> {
  const [nvidia, cudaToolkit] = await Promise.all([findNvidia(), findToolkit()]);
  return {platform: thisPlatform(), processor: thisProcessor(), node: process.versions.node, nvidia, cudaToolkit};
}

/** A description of the machine in a few lines. */
export function describeMachine({platform, processor, node, nvidia, cudaToolkit}: Machine): string[] {
  const instructions = processor.instructions.length ? ` (${processor.instructions.join(', ')})` : '';
  const gpus = nvidia?.gpus.map(({name, computeCapability}) => `${name} (sm_${computeCapability.replace('.', '')})`);
  return [
    `Node ${node}, ${describePlatform(platform)}`,
    `${processor.model}${instructions}`,
    gpus ? `${gpus.join(', ')}; NVIDIA driver ${nvidia!.driver}` : 'no NVIDIA GPU',
    cudaToolkit ? `CUDA toolkit ${cudaToolkit}` : 'no CUDA toolkit (nvcc)',
  ];
}
