/** @file Asks nvidia-smi about the GPUs of this machine. */
import {execFileSync} from 'node:child_process';

/** One GPU, which nvidia-smi knows under the same number or name. */
const ONE_GPU = /^(\d+|GPU-[\w-]+)$/;

/** A value of each NVIDIA GPU, or of the one that this process sees; empty without nvidia-smi. */
export function nvidiaSmi(query: string): string[] {
  const {CUDA_VISIBLE_DEVICES: own = ''} = process.env;
  const which = ONE_GPU.test(own) ? [`--id=${own}`] : [];
  const args = [`--query-gpu=${query}`, '--format=csv,noheader,nounits', ...which];
  try {
    const text = execFileSync('nvidia-smi', args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore']});
    return text.trim().split('\n');
  } catch {
    return [];
  }
}
