/** @file The state of a training run in one .safetensors file: weights, optimiser, settings, losses. */
import {existsSync, mkdirSync} from 'node:fs';
import {join} from 'node:path';
import type {ModelConfig} from './model.js';
import type {HostArray} from './npz.js';
import {readSafetensors, writeSafetensors} from './safetensors.js';
import {Tokenizer} from './tokenizer.js';

/** Options that a resumed run must share with the one that it continues. */
export interface Settings {
  steps: number;
  batch: number;
  rowTokens: number;
  learningRate: number;
  seed: number;
}

export interface Checkpoint {
  config: ModelConfig;
  tokenizer: Tokenizer;
  /** Weights by name, and `adamw.mean`, `adamw.square`. */
  tensors: Map<string, HostArray>;
  settings: Settings;
  /** Loss of each step done. */
  losses: number[];
}

const FILE = 'checkpoint.safetensors';

export function checkpointPath(folder: string): string {
  return join(folder, FILE);
}

/** Saves to `<folder>/checkpoint.safetensors`; the file is replaced as a whole. */
export function saveCheckpoint(folder: string, {config, tokenizer, tensors, settings, losses}: Checkpoint): void {
  mkdirSync(folder, {recursive: true});
  const metadata = {
    format: 'tfjs-flashmask finetune 1',
    config: JSON.stringify(config),
    tokenizer: tokenizer.toJson(),
    settings: JSON.stringify(settings),
    losses: JSON.stringify(losses),
  };
  writeSafetensors(checkpointPath(folder), {tensors, metadata});
}

/** The checkpoint of a folder. Throws when there is none, or it is damaged or of another program. */
export function loadCheckpoint(folder: string): Checkpoint {
  const path = checkpointPath(folder);
  if (!existsSync(path)) {
    throw new Error(`--resume: there is no ${path}. Give the --checkpoint-dir of the run, or leave out --resume.`);
  }
  return readCheckpoint(path);
}

/** The model of a checkpoint file, to start another run from it. */
export function checkpointModel(path: string): {
  config: ModelConfig;
  tokenizer: Tokenizer;
  weights: Map<string, HostArray>;
} {
  const {config, tokenizer, tensors} = readCheckpoint(path);
  return {config, tokenizer, weights: tensors};
}

function readCheckpoint(path: string): Checkpoint {
  const {tensors, metadata} = readSafetensors(path);
  const {config, tokenizer, settings, losses} = metadata;
  if ([config, tokenizer, settings, losses].includes(undefined as never)) {
    throw new Error(
      `${path} is not a checkpoint of this program: its metadata lacks config, tokenizer, settings or losses.`,
    );
  }
  return {
    config: JSON.parse(config) as ModelConfig,
    tokenizer: Tokenizer.fromJson(tokenizer),
    tensors,
    settings: JSON.parse(settings) as Settings,
    losses: JSON.parse(losses) as number[],
  };
}
