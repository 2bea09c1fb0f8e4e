/**
 * @file The Llama network in TensorFlow.js (also SmolLM, Mistral, Qwen2): RMSNorm, rotary positions, grouped-query
 * attention, SwiGLU. It equals transformers' `modeling_llama.py`, `modeling_mistral.py` and `modeling_qwen2.py` with
 * the same weights.
 *
 * Activations are `[N, channels]` with N = batch · tokens. They are `[batch, tokens, heads, channels]` only around the
 * attention, which is a parameter: flashMaskAttention and dense attention share everything else.
 */
import * as tf from '@tensorflow/tfjs';
import type {TracedResults} from '../../../src/backends/tensorflow/traced/gradients.js';
import {type Traced, traced} from '../../../src/backends/tensorflow/traced/traced.js';
import {gatedUnit} from '../../../src/layers/gated_unit.js';
import {rmsNorm} from '../../../src/layers/rms_norm.js';
import {rotate} from '../../../src/layers/rotate.js';
import type {HostTensor} from '../host_tensor.js';
import type {KeyValueCache} from './cache.js';
import {type LlamaConfig, type Projection, projectionName, weightShapes} from './config.js';
import {embed} from './embed.js';
import {Rotary} from './rope.js';

/** Tensors by name. */
type Tensors = Record<string, tf.Tensor>;

/** An attention. */
export interface Attend {
  /**
   * Maps `q [B, Sq, H, D]`, `k` and `v [B, Sk, Hkv, D]` to `[B, Sq, H, D]`.
   *
   * @param tensors What `tensorsOf` gives for the layer, by which alone layers then differ.
   */
  (q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D, layer: number, tensors: Tensors): tf.Tensor4D;
  /**
   * The tensors of a layer that it reads besides q, k and v, such as the bounds of a mask. Without it the attention of
   * a block does not become one operation.
   */
  tensorsOf?: (layer: number) => Tensors;
}

/** The input of a forward pass. */
export interface Tokens {
  /** `[B, T]` int32. */
  ids: tf.Tensor2D;
  /** `[B · T]`: the position of each token in its text. Not changed after the call. */
  positions: Int32Array;
}

/** Low-rank adapters of the projections. */
export interface Adapter {
  /** What an adapter reads for the tokens of a call; nothing if the projection has no adapter. Call it in a tidy. */
  tensorsOf(projection: string, tokens: number): Tensors;
  /** Maps `x [N, in]` to `[N, out]` by a frozen weight `[out, in]` and the tensors of its adapter. */
  project(x: tf.Tensor2D, weight: tf.Tensor2D, tensors: Tensors): tf.Tensor2D;
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
  /** On tfjs-node, runs each of these parts as one operation, made in this way. Default null: does not. */
  compiled?: Compilation | null;
}

/** How parts become one operation: see `TracedOptions`. */
export interface Compilation {
  xla: boolean;
  bfloat16: boolean;
}

/** A part of a block: the attention or the feed-forward part, with norm and residual. */
interface Half {
  /** Equal for halves that are the same function of their inputs. Null if it reads more than its inputs. */
  key: string | null;
  layer: number;
  norm: string;
  projections: readonly Projection[];
  /** What it reads besides its input and weights. */
  tensors: Tensors;
  /** Where it cannot become one operation as a whole, `part` makes one of each part. */
  run: (inputs: Tensors, part: Part) => tf.Tensor2D;
}

/** Runs a part of a half: a function of tensors, which the name and their shapes tell apart. */
type Part = <R extends TracedResults>(name: string, fn: (inputs: Tensors) => R, inputs: Tensors) => R;

const plainPart: Part = (_name, fn, inputs) => fn(inputs);

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
  /** Halves and their parts as TensorFlow functions, by adapter. Layers share them, because weights are inputs. */
  private readonly functions = new Map<object, Map<string, Traced<TracedResults>>>();

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
      for (let layer = 0; layer < this.config.layers; layer++) {
        for (const half of [this.attentionHalf(layer, tokens, attend, options), this.feedForwardHalf(layer, options)]) {
          const next = tf.tidy(() => this.runHalf(half, x, options));
          // A backward pass that needs x keeps it alive. tidy() would keep the activations of all layers until the end.
          x.dispose();
          x = next;
        }
      }
      return this.norm('model.norm', x);
    });
  }

  private runHalf(half: Half, x: tf.Tensor2D, options: ForwardOptions): tf.Tensor2D {
    const inputs: Tensors = {x, ...half.tensors, ...this.weightsOf(half, x.shape[0], options)};
    const traces = options.recompute || options.compiled;
    return traces ? this.tracedHalf(half, inputs, options)(inputs) : half.run(inputs, plainPart);
  }

  private tracedHalf(half: Half, inputs: Tensors, options: ForwardOptions): Traced<tf.Tensor2D> {
    const {compiled = null, recompute = false} = options;
    const names = Object.keys(inputs);
    const frozen = names.filter((name) => name !== 'x' && !(inputs[name] instanceof tf.Variable));
    if (compiled === null) return traced((given) => half.run(given, plainPart), {frozen, recompute, eager: true});
    if (half.key === null) {
      // What the parts keep for the gradient does not outlive this half.
      const part: Part = (name, fn, given) => {
        const still = Object.keys(given).filter((key) => frozen.includes(key));
        return this.tracedOnce(name, fn, Object.keys(given), {frozen: still, recompute: false}, options)(given);
      };
      return traced((given) => half.run(given, part), {frozen, recompute, eager: true});
    }
    return this.tracedOnce(half.key, (given) => half.run(given, plainPart), names, {frozen, recompute}, options);
  }

  /** A function of some inputs, made once for all layers. The key has its name first. */
  private tracedOnce<R extends TracedResults>(
    key: string,
    fn: (inputs: Tensors) => R,
    names: readonly string[],
    {frozen, recompute}: {frozen: readonly string[]; recompute: boolean},
    {adapter, compiled}: ForwardOptions,
  ): Traced<R> {
    const owner = adapter ?? this;
    const known = this.functions.get(owner) ?? new Map<string, Traced<TracedResults>>();
    this.functions.set(owner, known);
    const whole = `${key} ${names.join()} ${frozen.join()} ${recompute}`;
    if (!known.has(whole)) known.set(whole, traced(fn, {...compiled, frozen, recompute, name: key.split(' ')[0]}));
    return known.get(whole) as Traced<R>;
  }

  /** The weights of a half, by names without its layer, and those of its adapters. */
  private weightsOf({layer, norm, projections}: Half, tokens: number, {adapter}: ForwardOptions): Tensors {
    const weights: Tensors = {norm: this.weight(`model.layers.${layer}.${norm}.weight`)};
    for (const projection of projections) {
      const name = projectionName(layer, projection);
      weights[`${projection}.weight`] = this.weight(`${name}.weight`);
      const bias = this.weights.get(`${name}.bias`);
      if (bias !== undefined) weights[`${projection}.bias`] = bias;
      for (const [key, tensor] of Object.entries(adapter?.tensorsOf(name, tokens) ?? {})) {
        weights[`${projection}.${key}`] = tensor;
      }
    }
    return weights;
  }

  /** The attention of a block. */
  private attentionHalf(layer: number, tokens: Tokens, attend: Attend, {adapter, cache}: ForwardOptions): Half {
    const [batch, length] = tokens.ids.shape;
    const {headSize} = this.config;
    const split = (y: tf.Tensor): tf.Tensor4D => y.reshape([batch, length, y.shape[1]! / headSize, headSize]);
    const tables = this.rotary.at(tokens.positions);
    const masks = attend.tensorsOf?.(layer) ?? {};
    const before = (inputs: Tensors): tf.Tensor4D[] => {
      const project = projector(inputs, adapter);
      const {x, cosines, sines} = inputs as {x: tf.Tensor2D; cosines: tf.Tensor3D; sines: tf.Tensor3D};
      const normed = this.normed(x, inputs);
      const turned = (projection: Projection): tf.Tensor4D =>
        split(rotate(project(projection, normed), {cosines, sines}));
      return [turned('q_proj'), turned('k_proj'), split(project('v_proj', normed))];
    };
    const after = (inputs: Tensors): tf.Tensor2D => {
      const {x, attended} = inputs as {x: tf.Tensor2D; attended: tf.Tensor4D};
      return x.add(projector(inputs, adapter)('o_proj', attended.reshape([batch * length, -1])));
    };
    const run = (inputs: Tensors, part: Part): tf.Tensor2D => {
      const {x} = inputs;
      const [q, ...now] = part(`before_attention ${batch} ${length}`, before, without(inputs, 'o_proj.'));
      const {k, v} = cache === undefined ? {k: now[0], v: now[1]} : cache.append(layer, {k: now[0], v: now[1]});
      const attended = attend(q, k, v, layer, inputs);
      return part(`after_attention ${batch} ${length}`, after, {x, attended, ...only(inputs, 'o_proj.')});
    };
    return {
      key: attend.tensorsOf ? `attention ${batch} ${length} ${Object.keys(masks).join()}` : null,
      layer,
      norm: 'input_layernorm',
      projections: ['q_proj', 'k_proj', 'v_proj', 'o_proj'],
      tensors: {...tables, ...masks},
      run,
    };
  }

  /** The feed-forward part of a block. */
  private feedForwardHalf(layer: number, {adapter}: ForwardOptions): Half {
    const run = (inputs: Tensors): tf.Tensor2D => {
      const project = projector(inputs, adapter);
      const x = inputs.x as tf.Tensor2D;
      const normed = this.normed(x, inputs);
      const gated = gatedUnit(project('gate_proj', normed), project('up_proj', normed));
      return x.add(project('down_proj', gated));
    };
    return {
      key: 'feed_forward',
      layer,
      norm: 'post_attention_layernorm',
      projections: ['gate_proj', 'up_proj', 'down_proj'],
      tensors: {},
      run,
    };
  }

  private normed(x: tf.Tensor2D, {norm}: Tensors): tf.Tensor2D {
    return rmsNorm(x, norm as tf.Tensor1D, this.config.rmsNormEpsilon);
  }

  private norm(name: string, x: tf.Tensor2D): tf.Tensor2D {
    return rmsNorm(x, this.weight(`${name}.weight`) as tf.Tensor1D, this.config.rmsNormEpsilon);
  }

  private weight(name: string): tf.Tensor {
    return this.weights.get(name)!;
  }

  dispose(): void {
    tf.dispose([...this.weights.values()]);
    this.functions.forEach((known) => known.forEach((each) => each.dispose()));
    this.rotary.dispose();
  }
}

/** The tensors whose names start with a prefix, and all others. */
const only = (tensors: Tensors, prefix: string): Tensors =>
  Object.fromEntries(Object.entries(tensors).filter(([name]) => name.startsWith(prefix)));
const without = (tensors: Tensors, prefix: string): Tensors =>
  Object.fromEntries(Object.entries(tensors).filter(([name]) => !name.startsWith(prefix)));

/** Maps `x [N, in]` to `[N, out]` by the weights of a projection among the inputs of a half. */
function projector(
  inputs: Tensors,
  adapter: Adapter | null | undefined,
): (projection: Projection, x: tf.Tensor2D) => tf.Tensor2D {
  const partsOf = (projection: Projection): Tensors => {
    const own = Object.keys(inputs).filter((name) => name.startsWith(`${projection}.`));
    return Object.fromEntries(own.map((name) => [name.slice(projection.length + 1), inputs[name]]));
  };
  return (projection, x) => {
    const {weight, bias, ...adapted} = partsOf(projection) as {weight: tf.Tensor2D; bias?: tf.Tensor1D} & Tensors;
    const product =
      'a' in adapted ? adapter!.project(x, weight, adapted) : tf.matMul<tf.Tensor2D>(x, weight, false, true);
    return bias === undefined ? product : product.add(bias);
  };
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
