/** @file Multi-head attention as a layer of tf.layers, with the weights of Keras's MultiHeadAttention. */
import {type Rank, type Tensor, type Tensor4D, reshape, serialization, tidy} from '@tensorflow/tfjs-core';
import {layers} from '@tensorflow/tfjs-layers';
import {flashMaskAttention} from '../../ops/flash_mask_attention.js';
import {describe, fail} from '../call/errors.js';
import {type RotaryTables, rotate} from '../layers/rotate.js';
import {
  type AttentionConfig,
  type FlashMaskMultiHeadAttentionArgs,
  WHO,
  type WeightArgs,
  readArguments,
  readWeightArgs,
  withSeedPlus,
} from './arguments.js';
import {attentionMask} from './attention_mask.js';
import {windowOf} from './builder_mask.js';
import {inputHasMask} from './keras_mask.js';
import {activeCache} from './key_value_cache.js';
import {type Projection, project} from './projection.js';
import {rotaryTables} from './rotary.js';

type Shape = (number | null)[];
type ProjectionName = 'query' | 'key' | 'value' | 'attention_output';

/** The inputs of a call or their shapes. */
interface Roles<T> {
  query: T;
  value: T;
  key: T;
  /** Document ids or bounds. */
  mask: T | null;
}

const INPUTS = '[query], [query, value] or [query, value, key], and then document ids or bounds if there are any';

function rolesOf<T>(inputs: T[], rankOf: (input: T) => number): Roles<T> {
  const ranks = inputs.map(rankOf);
  const last = ranks.at(-1)!;
  const sequences = last === 3 ? inputs : inputs.slice(0, -1);
  const fits = sequences.length >= 1 && sequences.length <= 3 && ranks.slice(0, sequences.length).every((r) => r === 3);
  if (!fits || ![2, 3, 4].includes(last)) {
    const got = `inputs of ranks ${describe(ranks)}`;
    fail(WHO, `the inputs must be ${INPUTS}`, got, 'Sequences have rank 3, document ids rank 2, bounds rank 4.');
  }
  const [query, value = query, key = value] = sequences;
  return {query, value, key, mask: last === 3 ? null : inputs.at(-1)!};
}

/**
 * Multi-head attention with a FlashMask, for models of tf.layers: `model.fit`, `save` and `tf.loadLayersModel`. Weights
 * have the shapes and the order of Keras's MultiHeadAttention and GroupQueryAttention, so `setWeights` takes theirs.
 *
 * Inputs are `[batch, length, channels]`: one for self-attention, `[query, value]` or `[query, value, key]` for
 * cross-attention. The last input may say what is seen: document ids, int32 `[batch, length]`, or bounds, int32 `[1 or
 * batch, 1 or heads, keys, vectors]`. A padding mask, as `tf.layers.embedding({maskZero: true})` makes one, is obeyed.
 *
 * @example
 * const x = tf.input({shape: [128, 64]});
 * const attention = new FlashMaskMultiHeadAttention({numHeads: 4, keyDim: 16, useCausalMask: true});
 * const model = tf.model({inputs: x, outputs: attention.apply(x)});
 */
export class FlashMaskMultiHeadAttention extends layers.Layer {
  /** @ignore */
  static className = WHO;

  private readonly options: AttentionConfig;
  private readonly weightArgs: WeightArgs;
  private projections: Record<ProjectionName, Projection> | null = null;
  /** Calls that dropped weights. */
  private drops = 0;
  /** Whether the latest call had a padding mask for its first input. */
  private hadMask = false;

  /** @throws Error naming the argument, the rule, the value and the remedy. */
  constructor(args: FlashMaskMultiHeadAttentionArgs) {
    super(args);
    this.options = readArguments(args);
    this.weightArgs = readWeightArgs(args).config;
    this.supportsMasking = true;
  }

  /** @ignore */
  override build(inputShape: Shape | Shape[]): void {
    const {query, value, key} = shapesOf(inputShape);
    const {numHeads, numKeyValueHeads, keyDim, valueDim} = this.options;
    const output = this.outputSize(query);
    this.projections = {
      query: this.addProjection('query', 0, [lastOf(query)], [numHeads, keyDim]),
      key: this.addProjection('key', 1, [lastOf(key)], [numKeyValueHeads, keyDim]),
      value: this.addProjection('value', 2, [lastOf(value)], [numKeyValueHeads, valueDim]),
      attention_output: this.addProjection('attention_output', 3, [numHeads, valueDim], [output]),
    };
    this.built = true;
  }

  private addProjection(name: ProjectionName, index: number, from: number[], to: number[]): Projection {
    const {parts} = readWeightArgs(withSeedPlus(this.weightArgs, index));
    const {kernelInitializer, kernelRegularizer, kernelConstraint} = parts;
    const {biasInitializer, biasRegularizer, biasConstraint} = parts;
    const add = (part: string, shape: number[], initializer: never, regularizer: never, constraint: never) =>
      this.addWeight(`${name}/${part}`, shape, 'float32', initializer, regularizer, true, constraint);
    const kernel = add('kernel', [...from, ...to], kernelInitializer, kernelRegularizer, kernelConstraint);
    if (!this.options.useBias) return {kernel, bias: null};
    return {kernel, bias: add('bias', to, biasInitializer, biasRegularizer, biasConstraint)};
  }

  private outputSize(query: Shape): number {
    return this.options.outputSize ?? lastOf(query);
  }

  /** @ignore */
  override computeOutputShape(inputShape: Shape | Shape[]): Shape {
    const {query} = shapesOf(inputShape);
    return [query[0], query[1], this.outputSize(query)];
  }

  /** @ignore */
  override call(inputs: Tensor | Tensor[], kwargs: Record<string, unknown>): Tensor {
    return tidy(() => {
      this.invokeCallHook(inputs, kwargs);
      const roles = rolesOf([inputs].flat(), ({rank}) => rank);
      const out = this.attend(roles, kwargs);
      const [batch, length] = roles.query.shape;
      const projected = project(out, this.projections!.attention_output, 2);
      return reshape<Rank.R3>(projected, [batch, length!, projected.shape[1]]);
    });
  }

  /** Attention of the projected inputs, `[batch, query length, numHeads, valueDim]`. */
  private attend(roles: Roles<Tensor>, kwargs: Record<string, unknown>): Tensor4D {
    const {query, value, key, mask: input} = roles;
    const {numHeads, numKeyValueHeads, keyDim, valueDim, causal, mask: config, precision} = this.options;
    const self = value === query && key === query;
    const cache = self ? activeCache() : null;
    const positions = this.positions(query, self, cache?.seen ?? 0);
    const q = this.heads('query', query, numHeads, keyDim, positions);
    const now = {
      k: this.heads('key', key, numKeyValueHeads, keyDim, positions),
      v: this.heads('value', value, numKeyValueHeads, valueDim, null),
      tokens: this.paddingOf(roles, self, kwargs),
    };
    const {k, v, tokens} = cache ? cache.append(this, now, windowOf(config)) : now;
    const lengths: [number, number] = [q.shape[1], k.shape[1]];
    const parts = {config, causal, input, tokens, lengths, self: self && lengths[0] === lengths[1]};
    const mask = attentionMask(WHO, parts);
    this.checkForm(mask.isCausal, input, lengths, cache !== null);
    return flashMaskAttention(q, k, v, mask.mask, {causal: mask.isCausal, precision, ...this.dropoutOf(kwargs)});
  }

  private dropoutOf({training}: Record<string, unknown>): {dropout: number; seed?: number} {
    const {dropout, seed} = this.options;
    if (training !== true || dropout === 0) return {dropout: 0};
    return {dropout, seed: seed === null ? undefined : seed + this.drops++};
  }

  /** The heads of a projection, turned by their positions if these are given. */
  private heads(name: ProjectionName, x: Tensor, heads: number, size: number, turn: RotaryTables | null): Tensor4D {
    const [batch, length] = x.shape as [number, number];
    const flat = project(x, this.projections![name], 1);
    return reshape<Rank.R4>(turn === null ? flat : rotate(flat, turn), [batch, length, heads, size]);
  }

  /** The rotary positions of self-attention, of which the first token is at `first`. */
  private positions({shape}: Tensor, self: boolean, first: number): RotaryTables | null {
    const {ropeMaxWavelength, keyDim} = this.options;
    if (ropeMaxWavelength === null) return null;
    if (self) return rotaryTables(shape[0], shape[1]!, first, keyDim, ropeMaxWavelength);
    const remedy = 'Leave it out: queries and keys of two texts have no common positions.';
    return fail(WHO, 'ropeMaxWavelength is for self-attention', 'it with a value of other tokens', remedy);
  }

  private checkForm(causal: boolean, input: Tensor | null, [Sq, Sk]: [number, number], cached: boolean): void {
    if (cached && (!causal || input !== null)) {
      const got = causal ? 'document ids or bounds' : 'useCausalMask: false';
      const rule = 'with a KeyValueCache a layer must be causal and have no mask as an input';
      fail(WHO, rule, got, 'Pass useCausalMask: true, and generate one text in each row of the batch.');
    }
    if (!cached && causal && Sq !== Sk) {
      const got = `${Sq} queries and ${Sk} keys`;
      fail(WHO, 'with useCausalMask there must be as many queries as keys', got, 'Leave it out for cross-attention.');
    }
  }

  /** The padding mask of the keys, `[batch, keys]`. */
  private paddingOf(roles: Roles<Tensor>, self: boolean, kwargs: Record<string, unknown>): Tensor | null {
    const {query, value, mask} = roles;
    const ofQuery = maskOn(query) ?? ((inputHasMask(this, 0) ?? true) ? ([kwargs.mask].flat()[0] as Tensor) : null);
    this.hadMask = ofQuery != null;
    if (self) return ofQuery == null ? null : reshape(ofQuery, query.shape.slice(0, 2));
    const ofValue = maskOn(value);
    if (ofValue === null && mask === null && inputHasMask(this, 1) === true) {
      const remedy = "Give bounds of the value's tokens: new FlashMaskBounds({of: 'tokens', crossAttention: true}).";
      fail(WHO, 'tfjs hands on the padding mask of the first input only', 'one of the value', remedy);
    }
    return ofValue;
  }

  /** @ignore The output has the padding mask of the queries. */
  override computeMask(inputs: Tensor | Tensor[], mask?: Tensor | Tensor[]): Tensor {
    // tfjs disposes the mask of a tensor with it.
    if (mask === undefined) return (maskOn([inputs].flat()[0])?.clone() ?? null) as Tensor;
    const [ofQuery = null] = [mask].flat();
    if (Array.isArray(mask) && this.hadMask !== (ofQuery != null)) {
      const remedy = 'Give bounds: new FlashMaskBounds makes them from token ids.';
      fail(
        WHO,
        'the padding mask must come from layers of tfjs',
        'one that a layer of your own makes or drops',
        remedy,
      );
    }
    return ofQuery as Tensor;
  }

  /** @ignore */
  override getConfig(): serialization.ConfigDict {
    const {outputSize, causal, ...options} = this.options;
    const own = {...options, outputShape: outputSize, useCausalMask: causal ?? null};
    return {...super.getConfig(), ...this.weightArgs, ...own} as unknown as serialization.ConfigDict;
  }
}

/** The mask that tfjs keeps on the output of a layer that makes one. */
function maskOn(x: Tensor): Tensor | null {
  const {kerasMask} = x as {kerasMask?: Tensor | null};
  return kerasMask == null || kerasMask.isDisposed ? null : kerasMask;
}

function shapesOf(inputShape: Shape | Shape[]): Roles<Shape> {
  const shapes = Array.isArray(inputShape[0]) ? (inputShape as Shape[]) : [inputShape as Shape];
  return rolesOf(shapes, ({length}) => length);
}

function lastOf(shape: Shape): number {
  const size = shape.at(-1);
  if (size != null) return size;
  return fail(
    WHO,
    'the channels of an input must be known',
    describe(shape),
    'Give tf.input a shape with its last size.',
  );
}

serialization.registerClass(FlashMaskMultiHeadAttention);
