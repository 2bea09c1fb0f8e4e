/**
 * @file The tiny models of test/support/fixtures/llama_*.json, which llama_judge.py writes: what transformers makes of
 * weights by a formula.
 */
import {readFileSync, readdirSync} from 'node:fs';
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../../examples/finetune/host_tensor.js';
import {type LlamaConfig, parseConfig, weightShapes} from '../../examples/finetune/model/config.js';
import type {Attend, Llama} from '../../examples/finetune/model/llama.js';
import {flashMaskAttention, masks} from '../../src/entries/index.js';

export interface Fixture {
  name: string;
  config: Record<string, unknown>;
  /** The same in the words of transformers 4. */
  oldConfig: Record<string, unknown>;
  ids: number[][];
  /** `[tokens, vocabulary]`, or `[tokens, 1]`: scores of a reward model. */
  logits: number[];
  loss: number;
  /** Of each weight: the norm, and numbers i · size / 7. */
  gradients: Record<string, {norm: number; at: number[]}>;
  shapes: Record<string, number[]>;
  prompt: number[];
  greedy: number[];
  /** Drawn with seed 7, temperature 1.5 and top-p 0.8; `topK` with top-k 9 as well. */
  nucleus: number[];
  topK: number[];
}

const folder = new URL('fixtures/', import.meta.url);

export const fixtures: readonly Fixture[] = readdirSync(folder)
  .filter((file) => file.startsWith('llama_'))
  .map((file) => {
    const name = file.slice('llama_'.length, -'.json'.length);
    return {name, ...(JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as Omit<Fixture, 'name'>)};
  });

export function fixtureOf(name: string): Fixture {
  return fixtures.find((fixture) => fixture.name === name)!;
}

export function configOf({name, config}: Fixture): LlamaConfig {
  return parseConfig(config, name);
}

/** Reads the weights of a tiny model by their formula. */
export function formulaWeights(config: LlamaConfig): (name: string) => Promise<HostTensor> {
  const shapes = weightShapes(config);
  return async (name) => {
    const shape = shapes.get(name)!;
    return {shape, data: weight(name, shape)};
  };
}

function weight(name: string, shape: number[]): Float32Array {
  const values = formula(name, shape);
  if (name.includes('embed')) return values.map((x) => x * 0.5);
  if (shape.length === 2) return values.map((x) => (x * 3) / Math.sqrt(shape[1]));
  return values.map((x) => x * 0.3 + (name.endsWith('bias') ? 0 : 1));
}

/** Numbers in [-1, 1) by a 32-bit mix of the name's FNV-1a hash and the index (lowbias32 of Chris Wellons). */
function formula(name: string, shape: number[]): Float32Array {
  let seed = 0x811c9dc5;
  for (const byte of Buffer.from(name)) seed = Math.imul(seed ^ byte, 0x01000193);
  return Float32Array.from({length: tf.util.sizeFromShape(shape)}, (_, i) => {
    let x = i + seed;
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
    return ((x ^ (x >>> 16)) >>> 0) / 2 ** 31 - 1;
  });
}

/** Ids `[B, T]` on the device, each row a text of its own. */
export function tokensOf(ids: number[][]): {ids: tf.Tensor2D; positions: Int32Array} {
  const [rows, length] = [ids.length, ids[0].length];
  const positions = Int32Array.from({length: rows * length}, (_, i) => i % length);
  return {ids: tf.tensor2d(ids, [rows, length], 'int32'), positions};
}

/** Rows that are one text each: causal, within the layer's window. */
export function textAttention({slidingWindows}: LlamaConfig): Attend {
  return (q, k, v, layer) => {
    const window = slidingWindows[layer];
    const mask = window === null ? null : masks.slidingWindow(q.shape[1], window);
    return flashMaskAttention(q, k, v, mask, {causal: true});
  };
}

/** Logits `[N, vocabSize]`, or a reward model's scores `[N, 1]`. */
export function outputs(model: Llama, hidden: tf.Tensor2D): tf.Tensor2D {
  const head = model.config.scoreHead ? (model.weights.get('score.weight') as tf.Tensor2D) : model.head;
  return tf.matMul(hidden, head, false, true);
}

/** The mean cross-entropy of each row's next tokens, or the mean square of a reward model's scores. */
export function lossOf(model: Llama, values: tf.Tensor2D, ids: number[][]): tf.Scalar {
  if (model.config.scoreHead) return values.square().mean();
  const length = ids[0].length;
  const targets = ids.map((row) => [...row.slice(1), -1]).flat();
  const chosen = tf.oneHot(tf.tensor1d(targets, 'int32'), values.shape[1]).cast('float32');
  return tf
    .logSoftmax(values)
    .mul(chosen)
    .sum()
    .div(-ids.length * (length - 1)) as tf.Scalar;
}
