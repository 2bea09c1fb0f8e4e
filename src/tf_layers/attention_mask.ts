/** @file The mask of one call of a layer: of its configuration, of its inputs, and of Keras's padding mask. */
import {
  type Tensor,
  type Tensor4D,
  cast,
  concat,
  maximum,
  minimum,
  scalar,
  split,
  sub,
  tile,
} from '@tensorflow/tfjs-core';
import {fail} from '../call/errors.js';
import {AFTER_ALL_ROWS, padding, segments} from '../mask/builders/on_device.js';
import type {FlashMask} from '../mask/flash_mask.js';
import {builtMask, type readMaskConfig} from './builder_mask.js';

/** What a call knows about its mask. */
export interface MaskParts {
  config: ReturnType<typeof readMaskConfig> | null;
  /** The layer's `useCausalMask`; undefined if it was not given. */
  causal: boolean | undefined;
  /** Bounds `[1 or B, 1 or heads, Sk, n]`, or document ids `[B, S]`. */
  input: Tensor | null;
  /** The padding mask of the keys, `[B, Sk]`, not 0 for tokens. */
  tokens: Tensor | null;
  /** Query and key lengths. */
  lengths: [Sq: number, Sk: number];
  /** Whether the queries are the same tokens as the keys. */
  self: boolean;
}

/** The mask that the op gets, and whether it is causal. */
export interface OpMask {
  mask: FlashMask | Tensor4D | null;
  isCausal: boolean;
}

/** Combines all masks of a call: a query sees what all of them show. */
export function attentionMask(who: string, parts: MaskParts): OpMask {
  const {config, input, tokens, lengths, self} = parts;
  const host = config && builtMask(who, config, lengths, parts.causal);
  const causal = causalOf(who, parts, host);
  if (input === null && tokens === null) return {mask: host, isCausal: causal};
  let bounds: Tensor4D | null = host && host.vectors > 0 ? host.toTensor() : null;
  if (input !== null) bounds = both(who, bounds, inputBounds(who, input, parts, causal), causal);
  if (tokens !== null) {
    const real = padding(tokens, {causal, crossAttention: !self});
    bounds = isOneSided(bounds, causal) ? both(who, bounds, real, causal) : hideKeys(bounds!, tokens);
  }
  return {mask: bounds, isCausal: causal};
}

function causalOf(who: string, {causal, input}: MaskParts, host: FlashMask | null): boolean {
  if (host && causal !== undefined && causal !== host.causal) {
    const rule = `useCausalMask must agree with the mask '${host.name}' (causal: ${host.causal})`;
    fail(who, rule, `${causal}`, 'Leave it out: a builder says itself whether its mask is causal.');
  }
  if (input?.rank === 4 && input.shape[3] === 2 && causal === undefined) {
    const remedy = 'Pass useCausalMask: true if the vectors are LTS and LTE, false if they are LTS and UTE.';
    fail(who, 'with two vectors in the bounds useCausalMask must be given', 'none', remedy);
  }
  return causal ?? host?.causal ?? false;
}

function inputBounds(who: string, input: Tensor, {config, self}: MaskParts, causal: boolean): Tensor4D {
  if (input.rank === 4) {
    if (config !== null) {
      const remedy = 'Leave out the option mask, or give document ids.';
      fail(who, 'the bounds come from one place', 'a mask in the options and bounds as an input', remedy);
    }
    return cast(input as Tensor4D, 'int32');
  }
  if (self) return segments(input, {causal});
  const remedy = "Give bounds: new FlashMaskBounds({of: 'tokens', crossAttention: true}) makes them from token ids.";
  return fail(who, 'document ids are for self-attention', 'them beside a value of other tokens', remedy);
}

/** Whether bounds have the form that documents and padding have: LTS if causal, else LTS and UTE. */
function isOneSided(bounds: Tensor4D | null, causal: boolean): boolean {
  return bounds === null || bounds.shape[3] === (causal ? 1 : 2);
}

/** Bounds that show what two bounds of one-sided form both show. */
function both(who: string, a: Tensor4D | null, b: Tensor4D, causal: boolean): Tensor4D {
  if (a === null) return b;
  if (!isOneSided(a, causal)) {
    const remedy = 'Use a mask of one vector if causal, else of two, or only one of both.';
    fail(who, 'document ids combine with masks that hide later rows only', `a mask of ${a.shape[3]} vectors`, remedy);
  }
  if (causal) return minimum(a, b);
  const [[LTS, UTE], [otherLTS, otherUTE]] = [split(a, 2, 3), split(b, 2, 3)];
  return concat([minimum<Tensor4D>(LTS, otherLTS), maximum<Tensor4D>(UTE, otherUTE)], 3);
}

/** Hides the keys that are padding from all rows, where the first two vectors are LTS and LTE. */
function hideKeys(bounds: Tensor4D, tokens: Tensor): Tensor4D {
  // LTS of a key that is seen is after all rows, that of padding 0. LTE is the other way round.
  const seen = padding(tokens, {causal: true, crossAttention: true});
  const all = tile(bounds, [seen.shape[0] / bounds.shape[0], 1, 1, 1]);
  const [LTS, LTE, ...upper] = split(all, all.shape[3], 3);
  const hidden = sub(scalar(AFTER_ALL_ROWS, 'int32'), seen);
  return concat([minimum<Tensor4D>(LTS, seen), maximum<Tensor4D>(LTE, hidden), ...upper] as Tensor4D[], 3);
}
