/**
 * @file The Llama network in TensorFlow.js (also SmolLM, Mistral, Qwen2): RMSNorm, rotary positions, grouped-query attention, SwiGLU.
 * The same network as transformers' `modeling_llama.py`, `modeling_mistral.py` and `modeling_qwen2.py`, by the same weights.
 *
 * Activations are `[N, channels]` with N = batch · tokens, and become `[batch, tokens, heads, channels]` only around the attention, which
 * is a parameter: flashMaskAttention and dense attention share everything else.
 */
import * as tf from '@tensorflow/tfjs';
import type {HostTensor} from '../host_tensor.js';
import type {KeyValueCache} from './cache.js';
import {type LlamaConfig, type Projection, projectionName, weightShapes} from './config.js';
import {embed, gatedUnit, rmsNorm} from './layers.js';
import {recompute} from './recompute.js';
import {Rotary, rotate} from './rope.js';

/** `q [B, Sq, H, D]`, `k` and `v [B, Sk, Hkv, D]` to `[B, Sq, H, D]`. */
export type Attend = (q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D, layer: number) => tf.Tensor4D;

/** What a forward pass reads. */
export interface Tokens {
  /** `[B, T]` int32. */
  ids: tf.Tensor2D;
  /** `[B · T]`: the place of each token in its text. Not changed after the call. */
  positions: Int32Array;
}

/** What low-rank adapters add to the projections. */
export interface Adapter {
  /** `[N, in]` to `[N, out]`, or null where the projection (such as `model.layers.3.self_attn.q_proj`) has no adapter. */
  delta(projection: string, x: tf.Tensor2D): tf.Tensor2D | null;
  /** The trained variables that `delta` reads in a layer. */
  variablesOf(layer: number): tf.Variable[];
}

export interface ForwardOptions {
  adapter?: Adapter | null;
  /** The tokens continue those of earlier calls with this cache. Not for training. */
  cache?: KeyValueCache;
  /** Keeps only the input of each block and computes its activations again in the backward pass. Default false. */
  recompute?: boolean;
}

export interface LoadOptions {
  /** Makes the weights variables. Default false: plain tensors, for which no gradient is computed. */
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
   * Loads the weights one after the other, so that the host never holds them all.
   *
   * @param read Gives a weight by its Hugging Face name, matrices as `[out, in]`. Throws where there is none.
   * @throws Error when a weight is missing or has another shape than the configuration asks for.
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
        // tfjs wants a variable's name to be its own, so the model's number is added.
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
    /** By Hugging Face's names, in the order of `weightShapes`: matrices `[out, in]`, variables when trainable. */
    readonly weights: ReadonlyMap<string, tf.Tensor>,
  ) {
    this.rotary = new Rotary(config);
  }

  /** The language head `[vocabSize, hiddenSize]`: logits are `hidden · headᵀ`. Throws for a reward model, which has none. */
  get head(): tf.Tensor2D {
    if (this.config.scoreHead) throw new Error('A reward model has no language head.');
    return this.weight(this.config.tiedEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight') as tf.Tensor2D;
  }

  /** The last block's output after the final norm, `[B · T, hiddenSize]`. */
  hidden(tokens: Tokens, attend: Attend, options: ForwardOptions = {}): tf.Tensor2D {
    return tf.tidy(() => {
      const [batch, length] = tokens.ids.shape;
      let x = embed(this.weight('model.embed_tokens.weight') as tf.Tensor2D, tokens.ids.reshape([batch * length]));
      for (let layer = 0; layer < this.config.layers; layer++) {
        const block = (input: tf.Tensor2D): tf.Tensor2D =>
          tf.tidy(() => this.block(layer, input, tokens, attend, options));
        const next = options.recompute ? recompute(block, x, this.variablesOf(layer, options)) : block(x);
        // Who needs it in the backward pass holds on to it. tidy() would keep all layers' until the end.
        x.dispose();
        x = next;
      }
      return this.norm('model.norm', x);
    });
  }

  /** One layer, as a function of `x [N, hiddenSize]`. */
  private block(
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

    const a = this.norm(`model.layers.${layer}.input_layernorm`, x);
    const tables = this.rotary.at(tokens.positions);
    const q = split(rotate(project('q_proj', a), headSize, tables));
    const now = {k: split(rotate(project('k_proj', a), headSize, tables)), v: split(project('v_proj', a))};
    const {k, v} = cache === undefined ? now : cache.append(layer, now);
    const attended = attend(q, k, v, layer).reshape([batch * length, q.shape[2] * headSize]) as tf.Tensor2D;
    const y = x.add(project('o_proj', attended)) as tf.Tensor2D;

    const b = this.norm(`model.layers.${layer}.post_attention_layernorm`, y);
    const gated = gatedUnit(project('gate_proj', b), project('up_proj', b));
    return y.add(project('down_proj', gated));
  }

  /** `x [N, in]` to `[N, out]`. */
  private project(name: string, x: tf.Tensor2D, adapter: Adapter | null | undefined): tf.Tensor2D {
    const plain = tf.matMul<tf.Tensor2D>(x, this.weight(`${name}.weight`) as tf.Tensor2D, false, true);
    const bias = this.weights.get(`${name}.bias`);
    const biased = bias === undefined ? plain : (plain.add(bias) as tf.Tensor2D);
    const delta = adapter?.delta(name, x) ?? null;
    return delta === null ? biased : (biased.add(delta) as tf.Tensor2D);
  }

  private norm(name: string, x: tf.Tensor2D): tf.Tensor2D {
    return rmsNorm(x, this.weight(`${name}.weight`) as tf.Tensor1D, this.config.rmsNormEpsilon);
  }

  private weight(name: string): tf.Tensor {
    return this.weights.get(name)!;
  }

  private variablesOf(layer: number, {adapter}: ForwardOptions): tf.Variable[] {
    const prefix = `model.layers.${layer}.`;
    const own = [...this.weights].filter(([name]) => name.startsWith(prefix)).map(([, weight]) => weight);
    const trained = own.filter((weight): weight is tf.Variable => weight instanceof tf.Variable);
    return [...trained, ...(adapter?.variablesOf(layer) ?? [])];
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
