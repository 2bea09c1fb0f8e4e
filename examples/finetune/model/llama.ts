/**
 * @file The Llama network in TensorFlow.js (also SmolLM, Mistral, Qwen2): RMSNorm, rotary positions, grouped-query
 * attention, SwiGLU. It equals transformers' `modeling_llama.py`, `modeling_mistral.py` and `modeling_qwen2.py` with
 * the same weights.
 *
 * Activations are `[N, channels]` with N = batch · tokens. They are `[batch, tokens, heads, channels]` only around the
 * attention, which is a parameter: flashMaskAttention and dense attention share everything else.
 */
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../host_tensor.js';
import type {KeyValueCache} from './cache.js';
import {type LlamaConfig, type Projection, projectionName, weightShapes} from './config.js';
import {embed, gatedUnit, rmsNorm} from './layers.js';
import {recompute} from './recompute.js';
import {Rotary, rotate} from './rope.js';

/** Maps `q [B, Sq, H, D]`, `k` and `v [B, Sk, Hkv, D]` to `[B, Sq, H, D]`. */
export type Attend = (q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D, layer: number) => tf.Tensor4D;

/** The input of a forward pass. */
export interface Tokens {
  /** `[B, T]` int32. */
  ids: tf.Tensor2D;
  /** `[B · T]`: the position of each token in its text. Not changed after the call. */
  positions: Int32Array;
}

/** Low-rank adapters of the projections. */
export interface Adapter {
  /** Maps `x [N, in]` to `[N, out]` by a frozen weight `[out, in]` and its adapter. Null if there is no adapter. */
  project(projection: string, x: tf.Tensor2D, weight: tf.Tensor2D): tf.Tensor2D | null;
  /** The trained variables of the projections whose names begin with `prefix`, for example `model.layers.3.mlp.`. */
  variablesOf(prefix: string): tf.Variable[];
}

export interface ForwardOptions {
  adapter?: Adapter | null;
  /** Cache of the earlier tokens that these tokens continue. Not for training. */
  cache?: KeyValueCache;
  /**
   * Keeps only the input of the attention and of the feed-forward part of each block, and recomputes their activations
   * in the backward pass. Default false.
   */
  recompute?: boolean;
}

export interface LoadOptions {
  /** Makes the weights variables. Default false: they are plain tensors, which get no gradient. */
  trainable?: boolean;
  /** Called after each weight. */
  onProgress?: (loaded: number, total: number) => void;
}

type Weights = Map<string, tf.Tensor>;

let loadedModels = 0;

/** The model on the current backend. `dispose()` frees its weights. */
export class Llama {
  private readonly rotary: Rotary;

  /**
   * Loads the weights one by one, so that the host never holds all of them.
   *
   * @param read Returns a weight by its Hugging Face name, matrices as `[out, in]`. Throws if there is none.
   * @throws Error if a weight is missing or its shape differs from that of the configuration.
   */
  static async load(
    config: LlamaConfig,
    read: (name: string) => Promise<HostTensor>,
    {trainable = false, onProgress}: LoadOptions = {},
  ): Promise<Llama> {
    const shapes = weightShapes(config);
    const weights: Weights = new Map();
    const model = ++loadedModels;
    try {
      for (const [name, shape] of shapes) {
        const tensor = await readChecked(read, name, shape);
        // tfjs needs unique names of variables, so the number of the model is appended.
        weights.set(name, trainable ? tf.variable(tensor, true, `${name}:${model}`) : tensor);
        if (trainable) tensor.dispose();
        onProgress?.(weights.size, shapes.size);
      }
    } catch (error) {
      tf.dispose([...weights.values()]);
      throw error;
    }
    return new Llama(config, weights);
  }

  private constructor(
    readonly config: LlamaConfig,
    /** Weights by Hugging Face name, ordered as in `weightShapes`: matrices are `[out, in]`, variables if trainable. */
    readonly weights: ReadonlyMap<string, tf.Tensor>,
  ) {
    this.rotary = new Rotary(config);
  }

  /** The language head `[vocabSize, hiddenSize]`: logits are `hidden · headᵀ`. Throws for a reward model. */
  get head(): tf.Tensor2D {
    if (this.config.scoreHead) throw new Error('A reward model has no language head.');
    return this.weight(this.config.tiedEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight') as tf.Tensor2D;
  }

  /** The last block's output after the final norm, `[B · T, hiddenSize]`. */
  hidden(tokens: Tokens, attend: Attend, options: ForwardOptions = {}): tf.Tensor2D {
    return tf.tidy(() => {
      const [batch, length] = tokens.ids.shape;
      let x = embed(this.weight('model.embed_tokens.weight') as tf.Tensor2D, tokens.ids.reshape([batch * length]));
      const run = (half: (input: tf.Tensor2D) => tf.Tensor2D, parts: readonly string[]): void => {
        const tidied = (input: tf.Tensor2D): tf.Tensor2D => tf.tidy(() => half(input));
        const next = options.recompute ? recompute(tidied, x, this.variablesOf(parts, options)) : tidied(x);
        // A backward pass that needs x keeps it alive. tidy() would keep the activations of all layers until the end.
        x.dispose();
        x = next;
      };
      for (let layer = 0; layer < this.config.layers; layer++) {
        const name = `model.layers.${layer}`;
        run(
          (input) => this.attention(layer, input, tokens, attend, options),
          [`${name}.input_layernorm.`, `${name}.self_attn.`],
        );
        run((input) => this.feedForward(layer, input, options), [`${name}.post_attention_layernorm.`, `${name}.mlp.`]);
      }
      return this.norm('model.norm', x);
    });
  }

  /** The attention of a block, with norm and residual: `[N, hiddenSize]` to the same shape. */
  private attention(
    layer: number,
    x: tf.Tensor2D,
    tokens: Tokens,
    attend: Attend,
    {adapter, cache}: ForwardOptions,
  ): tf.Tensor2D {
    const [batch, length] = tokens.ids.shape;
    const {headSize} = this.config;
    const project = (projection: Projection, input: tf.Tensor2D): tf.Tensor2D =>
      this.project(projectionName(layer, projection), input, adapter);
    const split = (y: tf.Tensor2D): tf.Tensor4D => y.reshape([batch, length, y.shape[1] / headSize, headSize]);

    const normed = this.norm(`model.layers.${layer}.input_layernorm`, x);
    const tables = this.rotary.at(tokens.positions);
    const q = split(rotate(project('q_proj', normed), headSize, tables));
    const now = {k: split(rotate(project('k_proj', normed), headSize, tables)), v: split(project('v_proj', normed))};
    const {k, v} = cache === undefined ? now : cache.append(layer, now);
    const attended = attend(q, k, v, layer).reshape([batch * length, q.shape[2] * headSize]) as tf.Tensor2D;
    return x.add(project('o_proj', attended));
  }

  /** The feed-forward part of a block, with norm and residual: `[N, hiddenSize]` to the same shape. */
  private feedForward(layer: number, x: tf.Tensor2D, {adapter}: ForwardOptions): tf.Tensor2D {
    const project = (projection: Projection, input: tf.Tensor2D): tf.Tensor2D =>
      this.project(projectionName(layer, projection), input, adapter);
    const normed = this.norm(`model.layers.${layer}.post_attention_layernorm`, x);
    const gated = gatedUnit(project('gate_proj', normed), project('up_proj', normed));
    return x.add(project('down_proj', gated));
  }

  /** Maps `x [N, in]` to `[N, out]`. */
  private project(name: string, x: tf.Tensor2D, adapter: Adapter | null | undefined): tf.Tensor2D {
    const weight = this.weight(`${name}.weight`) as tf.Tensor2D;
    const bias = this.weights.get(`${name}.bias`);
    const product = adapter?.project(name, x, weight) ?? tf.matMul<tf.Tensor2D>(x, weight, false, true);
    return bias === undefined ? product : product.add(bias);
  }

  private norm(name: string, x: tf.Tensor2D): tf.Tensor2D {
    return rmsNorm(x, this.weight(`${name}.weight`) as tf.Tensor1D, this.config.rmsNormEpsilon);
  }

  private weight(name: string): tf.Tensor {
    return this.weights.get(name)!;
  }

  /** The trained variables whose names begin with one of the prefixes. */
  private variablesOf(prefixes: readonly string[], {adapter}: ForwardOptions): tf.Variable[] {
    return prefixes.flatMap((prefix) => {
      const own = [...this.weights].filter(([name]) => name.startsWith(prefix)).map(([, weight]) => weight);
      const trained = own.filter((weight): weight is tf.Variable => weight instanceof tf.Variable);
      return [...trained, ...(adapter?.variablesOf(prefix) ?? [])];
    });
  }

  dispose(): void {
    tf.dispose([...this.weights.values()]);
    this.rotary.dispose();
  }
}

async function readChecked(
  read: (name: string) => Promise<HostTensor>,
  name: string,
  shape: number[],
): Promise<tf.Tensor> {
  const host = await read(name);
  if (!tf.util.arraysEqual(host.shape, shape)) {
    const got = `[${host.shape.join(', ')}]`;
    throw new Error(`${name} should have the shape [${shape.join(', ')}] by the model's configuration, got ${got}.`);
  }
  return tf.tensor(host.data, shape);
}
