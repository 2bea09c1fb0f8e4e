/**
 * @file The GlassLM decoder in TensorFlow.js: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.
 *
 * Activations are `[N, channels]` with N = batch · tokens, and become `[batch, tokens, heads, channels]` only around the
 * attention, which is a parameter: flashMaskAttention and dense attention share everything else.
 */
import * as tf from '@tensorflow/tfjs';
import type {HostArray} from './npz.js';
import {IGNORED} from './packing.js';

export interface ModelConfig {
  vocabSize: number;
  /** Channels of an activation. */
  width: number;
  layers: number;
  heads: number;
  /** Key and value heads; `heads` is a multiple. */
  kvHeads: number;
  /** Longest document: rotary angles exist for positions below it. */
  maxLength: number;
  ropeBase: number;
  /** Added to the mean square in RMSNorm. */
  epsilon: number;
  /** Standard deviation of fresh weights. */
  initStd: number;
}

/** `q [B, Sq, H, D]`, `k` and `v [B, Sk, Hkv, D]` to `[B, Sq, H, D]`. */
export type Attend = (q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D) => tf.Tensor4D;

/** What a forward pass reads: `[B, T]` int32 each. */
export interface Tokens {
  ids: tf.Tensor2D;
  positions: tf.Tensor2D;
}

/** Keys and values of earlier tokens, one pair a layer, while a text is generated. */
export type KeyValueCache = {k: tf.Tensor4D; v: tf.Tensor4D}[];

/** Reads the `__config__` text of a glassllm .npz file. */
export function configFromJson(text: string): ModelConfig {
  const json = JSON.parse(text) as Record<string, number>;
  return {
    vocabSize: json.vocab_size,
    width: json.d_model,
    layers: json.n_layers,
    heads: json.n_heads,
    kvHeads: json.n_kv_heads,
    maxLength: json.max_len,
    ropeBase: json.rope_base,
    epsilon: json.eps,
    initStd: json.init_std,
  };
}

/** glassllm's own configuration, for training from scratch. */
export const GLASSLM: Omit<ModelConfig, 'vocabSize'> = {
  width: 128,
  layers: 4,
  heads: 4,
  kvHeads: 2,
  maxLength: 128,
  ropeBase: 10000,
  epsilon: 1e-6,
  initStd: 0.02,
};

/** Name and shape of every weight, by glassllm's names, in a fixed order. */
export function weightShapes(config: ModelConfig): Map<string, number[]> {
  const {width, vocabSize, heads, kvHeads} = config;
  const headSize = width / heads;
  const hidden = Math.trunc((8 * width) / 3);
  const shapes = new Map<string, number[]>([['E', [vocabSize, width]]]);
  for (let layer = 0; layer < config.layers; layer++) {
    const block = `blocks.${layer}`;
    shapes.set(`${block}.norm1.gamma`, [width]);
    shapes.set(`${block}.attn.W_Q`, [width, heads * headSize]);
    shapes.set(`${block}.attn.W_K`, [width, kvHeads * headSize]);
    shapes.set(`${block}.attn.W_V`, [width, kvHeads * headSize]);
    shapes.set(`${block}.attn.W_O`, [heads * headSize, width]);
    shapes.set(`${block}.norm2.gamma`, [width]);
    shapes.set(`${block}.ffn.W1`, [width, hidden]);
    shapes.set(`${block}.ffn.W3`, [width, hidden]);
    shapes.set(`${block}.ffn.W2`, [hidden, width]);
  }
  return shapes.set('norm_f.gamma', [width]);
}

/** Fresh weights: ones for the norms, normal with `initStd` for the matrices. `normal` draws from N(0, 1). */
export function freshWeights(config: ModelConfig, normal: () => number): Map<string, HostArray> {
  const weights = new Map<string, HostArray>();
  for (const [name, shape] of weightShapes(config)) {
    const draw = shape.length === 1 ? () => 1 : () => normal() * config.initStd;
    weights.set(name, {shape, data: Float32Array.from({length: tf.util.sizeFromShape(shape)}, draw)});
  }
  return weights;
}

/** The model on the current backend. `dispose()` frees its weights. */
export class Decoder {
  /** Trainable weights by glassllm's names, in the order of `weightShapes`. */
  readonly weights = new Map<string, tf.Variable>();
  private readonly headSize: number;
  private readonly cosines: tf.Tensor2D;
  private readonly sines: tf.Tensor2D;
  private readonly rotation: tf.Tensor2D;

  /** Throws when a weight is missing or has another shape than the configuration asks for. */
  constructor(
    readonly config: ModelConfig,
    weights: ReadonlyMap<string, HostArray>,
  ) {
    this.headSize = config.width / config.heads;
    for (const [name, shape] of weightShapes(config)) {
      const array = weights.get(name);
      if (array === undefined || !tf.util.arraysEqual(array.shape, shape)) {
        const got = array === undefined ? 'nothing' : `[${array.shape.join()}]`;
        throw new Error(`The model file should hold ${name} of shape [${shape.join()}], got ${got}.`);
      }
      this.weights.set(
        name,
        tf.tidy(() => tf.variable(tf.tensor(array.data, shape))),
      );
    }
    const {cosines, sines} = rotaryTables(config.maxLength, this.headSize, config.ropeBase);
    this.cosines = cosines;
    this.sines = sines;
    this.rotation = pairRotation(this.headSize);
  }

  /**
   * Next-token logits `[B · T, vocabSize]`. With a `cache` the tokens continue those of earlier calls, and the cache's
   * tensors are replaced; the caller owns them.
   */
  logits({ids, positions}: Tokens, attend: Attend, cache?: KeyValueCache): tf.Tensor2D {
    return tf.tidy(() => {
      const [batch, length] = ids.shape;
      // Angles of each token, [B, T, 1, headSize]: the same for all heads.
      const angles = (table: tf.Tensor2D) => tf.gather(table, positions).reshape([batch, length, 1, this.headSize]);
      const rotary = {cos: angles(this.cosines) as tf.Tensor4D, sin: angles(this.sines) as tf.Tensor4D};
      let x = embed(this.weight('E'), ids.flatten());
      for (let layer = 0; layer < this.config.layers; layer++) {
        const block = `blocks.${layer}`;
        x = x.add(this.attention(this.norm(x, `${block}.norm1.gamma`), layer, rotary, attend, cache));
        x = x.add(this.feedForward(this.norm(x, `${block}.norm2.gamma`), block));
      }
      return tf.matMul(this.norm(x, 'norm_f.gamma'), this.weight('E'), false, true);
    });
  }

  private weight(name: string): tf.Tensor2D {
    return this.weights.get(name)! as tf.Tensor as tf.Tensor2D;
  }

  private norm(x: tf.Tensor2D, gamma: string): tf.Tensor2D {
    return rmsNorm(x, this.weights.get(gamma)! as tf.Tensor as tf.Tensor1D, this.config.epsilon);
  }

  private attention(
    x: tf.Tensor2D,
    layer: number,
    rotary: {cos: tf.Tensor4D; sin: tf.Tensor4D},
    attend: Attend,
    cache?: KeyValueCache,
  ): tf.Tensor2D {
    const [batch, length] = rotary.cos.shape;
    const project = (name: string) => {
      const y = x.matMul(this.weight(`blocks.${layer}.attn.${name}`));
      return y.reshape([batch, length, -1, this.headSize]) as tf.Tensor4D;
    };
    const q = this.rotate(project('W_Q'), rotary);
    const {k, v} = remember(cache, layer, {k: this.rotate(project('W_K'), rotary), v: project('W_V')});
    const mixed = attend(q, k, v).reshape([batch * length, -1]) as tf.Tensor2D;
    return tf.matMul(mixed, this.weight(`blocks.${layer}.attn.W_O`));
  }

  /** Turns each adjacent pair of channels by its position's angle. */
  private rotate(x: tf.Tensor4D, {cos, sin}: {cos: tf.Tensor4D; sin: tf.Tensor4D}): tf.Tensor4D {
    const turned = x.reshape([-1, this.headSize]).matMul(this.rotation).reshape(x.shape);
    return x.mul(cos).add(turned.mul(sin));
  }

  private feedForward(x: tf.Tensor2D, block: string): tf.Tensor2D {
    const gate = x.matMul(this.weight(`${block}.ffn.W1`));
    const up = x.matMul(this.weight(`${block}.ffn.W3`));
    return gate
      .mul(gate.sigmoid())
      .mul(up)
      .matMul(this.weight(`${block}.ffn.W2`)) as tf.Tensor2D;
  }

  /** Weights on the host. */
  async download(): Promise<Map<string, HostArray>> {
    const arrays = new Map<string, HostArray>();
    for (const [name, weight] of this.weights) {
      arrays.set(name, {shape: weight.shape, data: (await weight.data()) as Float32Array});
    }
    return arrays;
  }

  dispose(): void {
    this.weights.forEach((weight) => weight.dispose());
    tf.dispose([this.cosines, this.sines, this.rotation]);
  }
}

/**
 * Mean next-token cross-entropy in nats over the labels that are not `IGNORED`, a scalar.
 *
 * @param logits `[N, vocabSize]`
 * @param labels `[N]` int32
 */
export function crossEntropy(logits: tf.Tensor2D, labels: tf.Tensor1D): tf.Scalar {
  return tf.tidy(() => {
    // An ignored label is no token, so its row of the one-hot matrix is all zero.
    const targets = tf.oneHot(labels, logits.shape[1], 1, 0, 'float32');
    const count = labels.notEqual(IGNORED).sum().cast('float32').maximum(1);
    return tf.logSoftmax(logits).mul(targets).sum().neg().div(count) as tf.Scalar;
  });
}

/**
 * Rows of the table `[vocabSize, width]`, by ids `[N]`. The gradient is a matrix product with the one-hot ids instead of
 * tfjs's scattered sum, which adds floats atomically: slow, and in another order each time.
 */
function embed(table: tf.Tensor2D, ids: tf.Tensor1D): tf.Tensor2D {
  const gather = tf.customGrad((...args) => {
    const rows = args[0] as tf.Tensor2D;
    const gradFunc = (dy: tf.Tensor) => [
      tf.matMul(tf.oneHot(ids, rows.shape[0], 1, 0, 'float32') as tf.Tensor2D, dy as tf.Tensor2D, true, false),
    ];
    return {value: tf.gather(rows, ids), gradFunc};
  });
  return gather(table) as tf.Tensor2D;
}

/**
 * `x / sqrt(mean(x²) + epsilon) * gamma` over the channels of `x [N, channels]`. The means and the sum in the gradient are
 * products with a constant vector: on CPU adapters tfjs's row reductions take longer than the model's matrix products.
 */
function rmsNorm(x: tf.Tensor2D, gamma: tf.Tensor1D, epsilon: number): tf.Tensor2D {
  const [rows, channels] = x.shape;
  const rowMean = (y: tf.Tensor): tf.Tensor2D => tf.matMul(y as tf.Tensor2D, tf.fill([channels, 1], 1 / channels));
  const norm = tf.customGrad((...args) => {
    const [input, scale, save] = args as unknown as [tf.Tensor2D, tf.Tensor1D, tf.GradSaveFunc];
    const inverse = rowMean(input.square()).add(epsilon).rsqrt();
    const unit = input.mul(inverse);
    save([unit, inverse, scale]);
    const gradFunc = (dy: tf.Tensor, saved: tf.Tensor[]) => {
      const [unitSaved, inverseSaved, scaleSaved] = saved;
      const dUnit = dy.mul(scaleSaved);
      const along = rowMean(dUnit.mul(unitSaved));
      const dScale = tf.matMul(tf.ones([1, rows]), dy.mul(unitSaved) as tf.Tensor2D).reshape([channels]);
      return [dUnit.sub(unitSaved.mul(along)).mul(inverseSaved), dScale];
    };
    return {value: unit.mul(scale), gradFunc};
  });
  return norm(x, gamma) as tf.Tensor2D;
}

/** Appends to a layer's cache and returns all keys and values; without a cache, those given. */
function remember(cache: KeyValueCache | undefined, layer: number, now: KeyValueCache[number]): KeyValueCache[number] {
  if (cache === undefined) {
    return now;
  }
  const before = cache[layer];
  const all = before === undefined ? now : {k: tf.concat([before.k, now.k], 1), v: tf.concat([before.v, now.v], 1)};
  tf.dispose(before === undefined ? [] : [before.k, before.v]);
  cache[layer] = {k: tf.keep(all.k.clone()), v: tf.keep(all.v.clone())};
  return cache[layer];
}

function rotaryTables(maxLength: number, headSize: number, base: number): {cosines: tf.Tensor2D; sines: tf.Tensor2D} {
  const angles = Array.from({length: maxLength}, (_, position) =>
    Array.from({length: headSize}, (_, channel) => position * base ** ((-2 * Math.trunc(channel / 2)) / headSize)),
  );
  const table = (f: (angle: number) => number) => tf.tensor2d(angles.map((row) => row.map(f)));
  return {cosines: table(Math.cos), sines: table(Math.sin)};
}

/** `x · R` maps each pair of channels (a, b) to (-b, a): a quarter turn, exact in floating point. */
function pairRotation(headSize: number): tf.Tensor2D {
  const matrix = Array.from({length: headSize}, () => new Array<number>(headSize).fill(0));
  for (let i = 0; i < headSize; i += 2) {
    matrix[i + 1][i] = -1;
    matrix[i][i + 1] = 1;
  }
  return tf.tensor2d(matrix);
}
