/** @file Masks by builder name and arguments, as a layer keeps them in its configuration. */
import {checkOptions, describe, fail} from '../call/errors.js';
import {isArray} from '../call/values.js';
import * as masks from '../mask/builders/index.js';
import type {FlashMask} from '../mask/flash_mask.js';

/** Builders of `masks` whose first argument is the length. A layer knows it. */
export type BuilderOfLength =
  | 'full'
  | 'causal'
  | 'slidingWindow'
  | 'window'
  | 'globalSlidingWindow'
  | 'prefixLmCausal'
  | 'qkSparse'
  | 'randomEviction';
/** The builders of `masks` that make a mask of arrays. */
export type MaskBuilder = Exclude<keyof typeof masks, 'padding' | 'segments'>;
/** The others make bounds of tensors. */
const OF_TENSORS: readonly string[] = ['padding', 'segments'] satisfies Exclude<keyof typeof masks, MaskBuilder>[];
/** The arguments after the first. */
export type WithoutLength<T extends unknown[]> = T extends [unknown, ...infer Rest] ? Rest : never;

/**
 * A mask as JSON: the name of a builder of `masks`, and its arguments. The length of a sequence is left out where it is
 * the builder's first argument.
 *
 * @example
 * const window: MaskConfig = {builder: 'slidingWindow', args: [512]};
 * const documents: MaskConfig = {builder: 'causalDocument', args: [[300, 724]]};
 */
export type MaskConfig = {
  [Name in MaskBuilder]: {
    /** The builder's name. */
    builder: Name;
    /** Its arguments, without the length where that comes first. */
    args?: Name extends BuilderOfLength
      ? WithoutLength<Parameters<(typeof masks)[Name]>>
      : Parameters<(typeof masks)[Name]>;
  };
}[MaskBuilder];

/** The place of the options with `queryLength` among the arguments after the length; -1: the builder has none. */
const OPTIONS_AT: Record<BuilderOfLength, number> = {
  full: 0,
  causal: 0,
  slidingWindow: 1,
  window: 1,
  prefixLmCausal: 1,
  globalSlidingWindow: -1,
  qkSparse: -1,
  randomEviction: -1,
};

/** A mask configuration whose builder exists, as plain JSON values. */
export function readMaskConfig(who: string, config: unknown): {builder: MaskBuilder; args: unknown[]} {
  const {builder, args = []} = checkOptions(who, config as Partial<MaskConfig>, ['builder', 'args']);
  const names = Object.keys(masks).filter((name) => !OF_TENSORS.includes(name));
  if (builder === undefined || !names.includes(builder)) {
    fail(
      who,
      `the builder of mask must be one of ${names.join(', ')}`,
      describe(builder),
      'Name a builder of `masks`.',
    );
  }
  if (!isArray(args)) fail(who, 'args of mask must be an array', describe(args), 'Pass the arguments of the builder.');
  return {builder, args: plain(args) as unknown[]};
}

/** Arrays in place of typed arrays. JSON has no Infinity (a side of `window` without limit): it writes null. */
function plain(value: unknown): unknown {
  if (value === null) return Infinity;
  return isArray(value) ? Array.from(value, plain) : value;
}

/** Most masks kept at a time. Layers of one model ask for the same ones. */
const MOST_KEPT = 16;
/** Least recently used first. */
const kept = new Map<string, FlashMask>();

/** The mask for these lengths; the same object for layers that ask for the same. */
export function builtMask(
  who: string,
  {builder, args}: ReturnType<typeof readMaskConfig>,
  [queryLength, keyLength]: [number, number],
  causal: boolean | undefined,
): FlashMask {
  const key = JSON.stringify([builder, args, queryLength, keyLength, causal]);
  const mask = kept.get(key) ?? build(who, builder, args, queryLength, keyLength, causal);
  kept.delete(key);
  kept.set(key, mask);
  if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value!);
  return mask;
}

function build(
  who: string,
  builder: MaskBuilder,
  args: readonly unknown[],
  queryLength: number,
  keyLength: number,
  causal: boolean | undefined,
): FlashMask {
  const make = masks[builder] as (...args: unknown[]) => FlashMask;
  if (!(builder in OPTIONS_AT)) return make(...args);
  const at = OPTIONS_AT[builder as BuilderOfLength];
  const given = [keyLength, ...args];
  if (at >= 0) {
    const options = args[at] ?? {};
    const filled = {queryLength, ...(builder === 'window' && {causal}), ...(options as object)};
    given[at + 1] = typeof options === 'object' ? filled : options; // The builder refuses what is no object.
  } else if (queryLength !== keyLength) {
    const got = `${queryLength} queries and ${keyLength} keys`;
    fail(who, `masks.${builder} is for as many queries as keys`, got, 'Use another builder, or no cache.');
  }
  return make(...given);
}

/** The number of latest keys that a query may see, its own included; Infinity if the mask does not say. */
export function windowOf(config: ReturnType<typeof readMaskConfig> | null): number {
  return config?.builder === 'slidingWindow' ? (config.args[0] as number) : Infinity;
}
