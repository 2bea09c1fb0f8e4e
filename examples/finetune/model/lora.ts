/**
 * @file Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685). A frozen projection W gets a trained update: y = x·Wᵀ +
 * s·(x·Aᵀ)·Bᵀ with A `[rank, in]`, B `[out, rank]` and s = alpha / rank. Names and defaults are those of Hugging Face's
 * PEFT.
 */
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../host_tensor.js';
import {uniform} from '../random.js';
import {adaptedLinear} from './adapted_linear.js';
import {type LlamaConfig, type Projection, projectionName, weightShapes} from './config.js';
import type {Adapter} from './llama.js';

export interface LoraOptions {
  rank: number;
  alpha: number;
  /** Fraction of a projection's inputs that the update drops in training. */
  dropout: number;
  targetModules: readonly Projection[];
  /** Scales by alpha / √rank instead of alpha / rank (rsLoRA, arXiv 2312.03732). */
  useRslora: boolean;
}

/** Gives the initial values of a weight. */
type Values = (name: string, shape: [number, number], isA: boolean) => Float32Array;

/** Rows of the table that dropout draws from. Each token takes a random row. */
const DROPOUT_ROWS = 1024;

/** Owns A and B of every adapted projection. `dispose()` frees them. */
export class Lora implements Adapter {
  /** `<projection>.lora_A.weight` and `<projection>.lora_B.weight`, all trained. */
  readonly weights = new Map<string, tf.Variable>();
  private readonly scale: number;
  private readonly dropoutTables = new Map<number, tf.Tensor2D>();
  /** Seed of the present forward pass. Null outside training. */
  private dropoutSeed: number | null = null;

  /** Fresh adapters, which change nothing yet: A is uniform in ±1/√in (as PEFT's Kaiming with a = √5), B is zero. */
  static fresh(config: LlamaConfig, options: LoraOptions, seed: number): Lora {
    const next = uniform(seed);
    return new Lora(config, options, (_, shape, isA) => {
      const bound = isA ? 1 / Math.sqrt(shape[1]) : 0;
      return Float32Array.from({length: shape[0] * shape[1]}, () => (isA ? bound * (2 * next() - 1) : 0));
    });
  }

  /** Adapters from a file. Throws if one is missing or has another shape, and then keeps none. */
  static fromTensors(config: LlamaConfig, options: LoraOptions, tensors: ReadonlyMap<string, HostTensor>): Lora {
    return new Lora(config, options, (name, shape) => {
      const tensor = tensors.get(name);
      if (tensor === undefined || !tf.util.arraysEqual(tensor.shape, shape)) {
        const got = tensor === undefined ? 'nothing' : `[${tensor.shape.join()}]`;
        throw new Error(`The adapter should hold ${name} of shape [${shape.join()}], got ${got}.`);
      }
      return tensor.data;
    });
  }

  private constructor(
    config: LlamaConfig,
    readonly options: LoraOptions,
    values: Values,
  ) {
    const {rank, alpha, useRslora} = options;
    this.scale = alpha / (useRslora ? Math.sqrt(rank) : rank);
    try {
      this.addAll(config, values);
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  private addAll(config: LlamaConfig, values: Values): void {
    const {rank, targetModules} = this.options;
    const shapes = weightShapes(config);
    for (let layer = 0; layer < config.layers; layer++) {
      // Adapt a module once even if it is named twice.
      for (const target of new Set(targetModules)) {
        const projection = projectionName(layer, target);
        const [outputs, inputs] = shapes.get(`${projection}.weight`)!;
        this.add(`${projection}.lora_A.weight`, [rank, inputs], true, values);
        this.add(`${projection}.lora_B.weight`, [outputs, rank], false, values);
      }
    }
  }

  private add(name: string, shape: [number, number], isA: boolean, values: Values): void {
    const data = values(name, shape, isA);
    this.weights.set(
      name,
      tf.tidy(() => tf.variable(tf.tensor2d(data, shape))),
    );
  }

  tensorsOf(projection: string, tokens: number): Record<string, tf.Tensor> {
    const a = this.weights.get(`${projection}.lora_A.weight`);
    if (a === undefined) return {};
    const b = this.weights.get(`${projection}.lora_B.weight`)!;
    if (this.dropoutSeed === null) return {a, b};
    return {a, b, table: this.dropoutTable(a.shape[1]!), rows: this.rowsOf(projection, tokens, this.dropoutSeed)};
  }

  project(x: tf.Tensor2D, weight: tf.Tensor2D, {a, b, table, rows}: Record<string, tf.Tensor>): tf.Tensor2D {
    // Not tf.gather, for which tfjs-node reads the rows back to check them.
    const kept = table ? (tf.gatherND(table, rows.expandDims(1)) as tf.Tensor2D) : null;
    return adaptedLinear(x, weight, {a: a as tf.Tensor2D, b: b as tf.Tensor2D, scale: this.scale, kept});
  }

  /**
   * Sets what the next forward passes drop. The same seed drops the same, so that the backward pass can recompute a
   * block. Null drops nothing, for evaluation.
   */
  setDropout(seed: number | null): void {
    this.dropoutSeed = this.options.dropout > 0 ? seed : null;
  }

  /** tfjs draws random numbers on the host. So each token takes a row of a table instead of newly drawn numbers. */
  private rowsOf(projection: string, tokens: number, seed: number): tf.Tensor1D {
    const next = uniform(seed ^ hash(projection));
    const rows = Int32Array.from({length: tokens}, () => Math.floor(next() * DROPOUT_ROWS));
    return tf.tensor1d(rows, 'int32');
  }

  /** `[DROPOUT_ROWS, channels]`: 0 where dropped, else 1 / (1 - dropout). */
  private dropoutTable(channels: number): tf.Tensor2D {
    const known = this.dropoutTables.get(channels);
    if (known !== undefined) {
      return known;
    }
    const {dropout} = this.options;
    const next = uniform(channels);
    const data = Float32Array.from({length: DROPOUT_ROWS * channels}, () => (next() < dropout ? 0 : 1 / (1 - dropout)));
    const table = tf.keep(tf.tensor2d(data, [DROPOUT_ROWS, channels]));
    this.dropoutTables.set(channels, table);
    return table;
  }

  dispose(): void {
    tf.dispose([...this.weights.values(), ...this.dropoutTables.values()]);
  }
}

/** FNV-1a of a name. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  }
  return value >>> 0;
}
