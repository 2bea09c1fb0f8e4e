/** @file Asks nvidia-smi about the GPUs of this machine. */
import {execFileSync} from 'node:child_process';

/** A value of each NVIDIA GPU; empty without nvidia-smi. */
export function nvidiaSmi(query: string): string[] {
  const args = [`--query-gpu=${query}`, '--format=csv,noheader,nounits'];
  try {
    const text = execFileSync('nvidia-smi', args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore']});
    return text.trim().split('\n');
  } catch {
    return [];
  }
}
