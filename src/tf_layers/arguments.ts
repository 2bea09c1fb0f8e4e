/** @file The arguments of FlashMaskMultiHeadAttention, and their checks. */
import {layers} from '@tensorflow/tfjs-layers';
import {MAX_HEAD_SIZE} from '../call/constants.js';
import type {Precision} from '../call/kernel_names.js';
import {checkFlag, checkOptions, describe, fail} from '../call/errors.js';
import {type MaskConfig, readMaskConfig} from './builder_mask.js';

export const WHO = 'FlashMaskMultiHeadAttention';

/** Arguments of every layer of tfjs: `name`, `inputShape`, `trainable`, ... */
export type LayerArgs = NonNullable<ConstructorParameters<typeof layers.Layer>[0]>;
type DenseArgs = Parameters<typeof layers.dense>[0];

/** The names of {@link LayerArgs} that a saved layer may have. tfjs adds `customObjects` to what it loads. */
export const LAYER_ARGS = [
  ...['name', 'trainable', 'inputShape', 'batchInputShape', 'batchSize', 'dtype', 'inputDType', 'customObjects'],
] as (keyof LayerArgs)[];

const WEIGHT_ARGS = [
  'kernelInitializer',
  'biasInitializer',
  'kernelRegularizer',
  'biasRegularizer',
  'kernelConstraint',
  'biasConstraint',
] as const;

/** Initializers, regularizers and constraints, as `tf.layers.dense` takes them. */
export type WeightArgs = Pick<DenseArgs, (typeof WEIGHT_ARGS)[number]>;

/** Arguments of {@link FlashMaskMultiHeadAttention}. Most have the names of Keras's MultiHeadAttention. */
export interface FlashMaskMultiHeadAttentionArgs extends LayerArgs, WeightArgs {
  /** Query heads. */
  numHeads: number;
  /** Channels of a query and key head, from 1 to 256. */
  keyDim: number;
  /** Channels of a value head, from 1 to 256. Default `keyDim`. */
  valueDim?: number | null;
  /** Key and value heads, a divisor of `numHeads` (grouped heads). Default `numHeads`. */
  numKeyValueHeads?: number | null;
  /** Probability in [0, 1) that a weight is dropped in training. Default 0. */
  dropout?: number;
  /** Key of the dropout generator. Training call n of the layer uses seed + n. Default: a random one for each call. */
  seed?: number | null;
  /** Whether the projections add a bias. Default true. */
  useBias?: boolean;
  /** Channels of the output. Default: those of the query input. */
  outputShape?: number | number[] | null;
  /**
   * Hide the keys after the query's position. With bounds as an input it also says how to read them: two vectors need
   * it, true for LTS and LTE, false for LTS and UTE. Default: as the mask says, else false.
   */
  useCausalMask?: boolean | null;
  /** A mask by the name of its builder; it is saved with the model. */
  mask?: MaskConfig | null;
  /**
   * Rotary position embeddings of queries and keys: the longest wavelength in tokens over 2π, 10000 in most models.
   * Channels i and i + keyDim / 2 rotate together. Default: none.
   */
  ropeMaxWavelength?: number | null;
  /** Precision of the attention's products, as the op's option. Default 'auto'. */
  precision?: Precision;
}

/** The arguments, checked, with their defaults. */
export interface AttentionConfig {
  numHeads: number;
  keyDim: number;
  valueDim: number;
  numKeyValueHeads: number;
  dropout: number;
  seed: number | null;
  useBias: boolean;
  outputSize: number | null;
  causal: boolean | undefined;
  mask: ReturnType<typeof readMaskConfig> | null;
  ropeMaxWavelength: number | null;
  precision: Precision;
}

const KNOWN = [
  ...['numHeads', 'keyDim', 'valueDim', 'numKeyValueHeads', 'dropout', 'seed', 'useBias', 'outputShape'],
  ...['useCausalMask', 'mask', 'ropeMaxWavelength', 'precision'],
  ...[...WEIGHT_ARGS, 'activityRegularizer', ...LAYER_ARGS, 'weights'],
] as (keyof FlashMaskMultiHeadAttentionArgs)[];

export function readArguments(args: FlashMaskMultiHeadAttentionArgs): AttentionConfig {
  const given = checkOptions(WHO, args, KNOWN);
  const numHeads = positive('numHeads', given.numHeads);
  const keyDim = headSize('keyDim', given.keyDim);
  const config = {
    numHeads,
    keyDim,
    valueDim: headSize('valueDim', given.valueDim ?? keyDim),
    numKeyValueHeads: positive('numKeyValueHeads', given.numKeyValueHeads ?? numHeads),
    dropout: readDropout(given.dropout ?? 0),
    seed: given.seed ?? null,
    useBias: flag('useBias', given.useBias) ?? true,
    outputSize: readOutputShape(given.outputShape ?? null),
    causal: flag('useCausalMask', given.useCausalMask),
    mask: given.mask == null ? null : readMaskConfig(WHO, given.mask),
    ropeMaxWavelength: given.ropeMaxWavelength ?? null,
    precision: given.precision ?? 'auto',
  };
  const {numKeyValueHeads, ropeMaxWavelength} = config;
  if (numHeads % numKeyValueHeads !== 0) {
    const got = `${numHeads} and ${numKeyValueHeads}`;
    fail(WHO, 'numHeads must be a multiple of numKeyValueHeads', got, 'Each key head serves as many query heads.');
  }
  if (ropeMaxWavelength !== null && (typeof ropeMaxWavelength !== 'number' || !(ropeMaxWavelength > 0))) {
    fail(WHO, 'ropeMaxWavelength must be a positive number', describe(ropeMaxWavelength), 'Pass for example 10000.');
  }
  if (ropeMaxWavelength !== null && keyDim % 2 !== 0) {
    fail(WHO, 'with ropeMaxWavelength keyDim must be even', `${keyDim}`, 'Channels rotate in pairs.');
  }
  return config;
}

function positive(what: string, value: unknown): number {
  if (Number.isInteger(value) && (value as number) >= 1) return value as number;
  return fail(WHO, `${what} must be a positive integer`, describe(value), `Pass for example {${what}: 8}.`);
}

function headSize(what: string, value: unknown): number {
  const size = positive(what, value);
  if (size <= MAX_HEAD_SIZE) return size;
  return fail(WHO, `${what} must be at most ${MAX_HEAD_SIZE}`, `${size}`, 'Split the channels into more heads.');
}

function flag(what: string, value: unknown): boolean | undefined {
  const given = value ?? undefined;
  checkFlag(WHO, what, given);
  return given;
}

function readDropout(dropout: unknown): number {
  if (typeof dropout === 'number' && dropout >= 0 && dropout < 1) return dropout;
  return fail(WHO, 'dropout must be a probability in [0, 1)', describe(dropout), 'Pass 0 for none.');
}

function readOutputShape(shape: unknown): number | null {
  if (shape === null) return null;
  const [size, ...more] = [shape].flat() as unknown[];
  if (more.length > 0) {
    fail(WHO, 'outputShape must be one number', describe(shape), 'Reshape the output by tf.layers.reshape.');
  }
  return positive('outputShape', size);
}

/** The parsed initializers, regularizers and constraints of tf.layers.dense, which knows all their forms. */
export type WeightParts = Record<(typeof WEIGHT_ARGS)[number], DenseWeightPart>;

/** What `addWeight` takes; tfjs exports no type of it. */
export type DenseWeightPart = never;

/** Reads them through a dense layer. `config` has them as JSON. */
export function readWeightArgs(args: WeightArgs): {parts: WeightParts; config: WeightArgs} {
  const pick = <T extends object>(from: T): T =>
    Object.fromEntries(WEIGHT_ARGS.map((name) => [name, from[name as keyof T]])) as T;
  const {kernelInitializer = 'glorotUniform'} = args;
  // Named, so that it does not count among the user's dense layers.
  const dense = layers.dense({...pick(args), kernelInitializer, units: 1, name: 'arguments_of_attention'});
  return {parts: pick(dense as unknown as WeightParts), config: pick(dense.getConfig() as WeightArgs)};
}

/**
 * A copy, since tfjs writes into what it reads, with another seed where the initializer has one: equal kernels would
 * make equal projections.
 */
export function withSeedPlus(config: WeightArgs, by: number): WeightArgs {
  const copy = structuredClone(config);
  const {config: initializer} = copy.kernelInitializer as unknown as {config: {seed?: number | null}};
  if (typeof initializer.seed === 'number') initializer.seed += by;
  return copy;
}
