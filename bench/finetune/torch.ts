/** @file PyTorch's own training step, where a Python with torch and transformers is found (torch_step.py). */
import {execFile, execFileSync} from 'node:child_process';
import {failureOf, outcomeOf, shorten, type Failure} from '../failure.js';
import type {Figures} from '../record.js';
import {CONFIGS, COMMON} from './models.js';
import {LORA, type StepOptions} from './step.js';

/** From the root of the repository, where `npm run bench` runs. */
const SCRIPT = 'bench/finetune/torch_step.py';

/** From this length on PyTorch recomputes activations, as it must for the larger models. */
const RECOMPUTED = 8192;

export const keepsInTorch = (N: number): boolean => N < RECOMPUTED;

/** Why a Python cannot run the steps; null if it can. */
export function whyNoTorch(python: string): string | null {
  try {
    execFileSync(python, ['-c', 'import torch, transformers, peft'], {stdio: ['ignore', 'ignore', 'pipe']});
    return null;
  } catch (error) {
    const {stderr, message} = error as Error & {stderr?: Buffer};
    return shorten(stderr?.toString().trim().split('\n').at(-1) || message);
  }
}

/** Measures in a process of its own, which ends after so many ms. */
export function stepsOfTorch(
  python: string,
  {model, task, N, dtype, steps, seconds}: Pick<StepOptions, 'model' | 'task' | 'N' | 'dtype' | 'steps' | 'seconds'>,
  milliseconds: number,
): Promise<Figures | Failure> {
  const config = {...COMMON, ...CONFIGS[model]};
  const options = {config, task, N, dtype, steps, seconds, keepActivations: keepsInTorch(N), lora: LORA};
  return new Promise((resolve) => {
    const limits = {timeout: Math.floor(milliseconds), killSignal: 'SIGKILL'} as const;
    execFile(python, [SCRIPT, JSON.stringify(options)], limits, (error, stdout, stderr) => {
      if (error === null) resolve(figuresOf(stdout));
      else if (error.killed) resolve({outcome: 'time limit', reason: `${(milliseconds / 1000).toFixed(0)} s`});
      else resolve({outcome: outcomeOf(stderr, error.signal), reason: shorten(stderr.trim().split('\n').at(-1)!)});
    });
  });
}

/** The last line of the output. */
function figuresOf(stdout: string): Figures | Failure {
  try {
    return JSON.parse(stdout.trim().split('\n').at(-1)!) as Figures;
  } catch (error) {
    return failureOf(new Error(`${SCRIPT} must print a line of JSON, got '${stdout}': ${String(error)}`));
  }
}
