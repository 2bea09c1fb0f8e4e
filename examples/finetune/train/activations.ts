/**
 * @file Whether a run keeps the activations of its blocks for the backward pass, or computes them again there
 * (activation checkpointing): what keeping them takes, and what the device has.
 */
import type {TrainedModel} from './trained_model.js';

/** The values of `--keep-activations`. */
export const KEEP_ACTIVATIONS = ['auto', 'always', 'never'] as const;
export type KeepActivations = (typeof KEEP_ACTIVATIONS)[number];

export interface ActivationChoice {
  keep: boolean;
  /** For the user. */
  why: string;
}

const FLOAT_BYTES = 4;
/** Of trained weights: gradients, their joined copies, and AdamW's two moments. */
const COPIES = 4;
/** Part of the free memory that activations may take. The rest is for logits, one block at work, and fragmentation. */
const SHARE = 0.5;

/** Chooses for batches of so many tokens. `freeBytes` is null where the device does not tell. */
export function chooseActivations(model: TrainedModel, tokens: number, freeBytes: number | null): ActivationChoice {
  if (freeBytes === null) return {keep: false, why: 'the device does not tell its free memory'};
  const size = [...model.trainable.values()].reduce((sum, weight) => sum + weight.size, 0);
  const room = Math.max(0, freeBytes - COPIES * FLOAT_BYTES * size);
  const kept = keptBytes(model, tokens);
  return {keep: kept <= SHARE * room, why: `they take up to ${gigabytes(kept)} of ${gigabytes(room)} that are free`};
}

/** An upper estimate of what the blocks keep for the backward pass. A test compares it with what they keep. */
export function keptBytes({config, adapter, compiles}: TrainedModel, tokens: number): number {
  const {hiddenSize, heads, kvHeads, headSize, intermediateSize, layers} = config;
  const [queries, keys] = [heads * headSize, kvHeads * headSize];
  // The input and the norm of both halves; q, k and v before and after their rotation; the attention; the gated unit.
  let floats = 4 * hiddenSize + 4 * queries + 4 * keys + 3 * intermediateSize;
  if (adapter !== null) {
    const {rank, dropout, targetModules} = adapter.options;
    floats += 3 * rank * targetModules.length;
    // The inputs of all projections, and what of them is dropped.
    if (dropout > 0) floats += 1.5 * (5 * hiddenSize + queries + intermediateSize);
  }
  // Operation by operation, tfjs keeps the inputs of each.
  return FLOAT_BYTES * tokens * layers * floats * (compiles ? 1 : 2);
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(bytes < 1e8 ? 3 : 1)} GB`;
