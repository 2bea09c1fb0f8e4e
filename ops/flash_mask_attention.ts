/** @file The op: validate, convert, run the kernel. Nothing below it checks an argument again. */
import {
  type NamedAttrMap,
  type Tensor,
  type Tensor3D,
  type Tensor4D,
  type TensorLike,
  customGrad,
  engine,
  fill,
  op,
  zeros,
} from '@tensorflow/tfjs-core';
import {ensureKernels} from '../src/call/ensure_kernels.js';
import {type FlashMaskAttentionAttrs, FlashMaskAttention} from '../src/call/kernel_names.js';
import {boundsTensorOf} from '../src/mask/bounds/bounds_cache.js';
import {isFlashMask} from '../src/mask/is_flash_mask.js';
import type {FlashMask} from '../src/mask/flash_mask.js';
import {type Sizes, checkMask, checkPrecision, checkSizes, readyBackend, toInput} from './check_arguments.js';
import {type FlashMaskAttentionOptions, readOptions} from './options.js';

export type {FlashMaskAttentionOptions} from './options.js';

/** A mask argument: a FlashMask, int32 row bounds `[1 or B, 1 or Hkv or H, Sk, n]`, or none. */
export type MaskLike = FlashMask | Tensor4D | Tensor | null;

function flashMaskAttention_(
  q: Tensor | TensorLike,
  k: Tensor | TensorLike,
  v: Tensor | TensorLike,
  mask?: MaskLike,
  options?: FlashMaskAttentionOptions,
): Tensor4D | [Tensor4D, Tensor3D] {
  const {name, backend} = readyBackend();
  const given = readOptions(options);
  checkPrecision(given.precision, name, backend);
  const {layout, dropout, seed, precision, deterministic} = given;
  const axes = (length: string, heads: string, size: string): string =>
    layout === 'bshd' ? `[B, ${length}, ${heads}, ${size}]` : `[B, ${heads}, ${length}, ${size}]`;
  const $q = toInput('q', q, axes('Sq', 'H', 'D'));
  const $k = toInput('k', k, axes('Sk', 'Hkv', 'D'));
  const $v = toInput('v', v, axes('Sk', 'Hkv', 'Dv'));
  const sizes = checkSizes($q, $k, $v, layout);
  const causal = checkMask(mask, given.causal, sizes);
  const scale = given.scale ?? 1 / Math.sqrt(sizes.D);

  const lseUnused = !given.returnLogSumExp;
  const attrs: FlashMaskAttentionAttrs = {causal, scale, layout, dropout, seed, precision, deterministic, lseUnused};
  const run = hasPairs(sizes) ? runKernel : runWithoutPairs;
  const [out, lse] = run([$q, $k, $v], mask ?? null, sizes, attrs);
  return lseUnused ? out : [out, lse];
}

/** Runs a checked call. */
type Run = (qkv: Tensor4D[], mask: MaskLike, sizes: Sizes, attrs: FlashMaskAttentionAttrs) => [Tensor4D, Tensor3D];

const runKernel: Run = ([q, k, v], mask, sizes, attrs) => {
  const bounds = mask === null || isFlashMask(mask) ? boundsTensorOf(mask, sizes.Sk) : mask;
  ensureKernels(engine().backendName);
  const kernelAttrs = attrs as unknown as NamedAttrMap;
  const [out, lse] = engine().runKernel<Tensor[]>(FlashMaskAttention, {q, k, v, bounds}, kernelAttrs);
  return [out as Tensor4D, lse as Tensor3D];
};

function hasPairs({B, Sq, Sk}: Sizes): boolean {
  return B > 0 && Sq > 0 && Sk > 0;
}

/**
 * A call without query rows or keys runs no kernel: its rows, if any, see no key. So kernels never get empty buffers.
 */
const runWithoutPairs: Run = ([q, k, v], _mask, {B, H, Sq, Dv}, {layout}) => {
  const noGradient = (): Tensor[] => [zeros(q.shape), zeros(k.shape), zeros(v.shape)];
  const constant = <T extends Tensor>(make: () => T): T =>
    customGrad(() => ({value: make(), gradFunc: noGradient}))(q, k, v) as T;
  const out = constant(() => zeros(layout === 'bshd' ? [B, Sq, H, Dv] : [B, H, Sq, Dv]) as Tensor4D);
  const lse = constant(() => fill([B, H, Sq], -Infinity) as Tensor3D);
  return [out, lse];
};

/** The call signatures of {@link flashMaskAttention}. */
export interface FlashMaskAttentionOp {
  (
    q: Tensor | TensorLike,
    k: Tensor | TensorLike,
    v: Tensor | TensorLike,
    mask: MaskLike | undefined,
    options: FlashMaskAttentionOptions & {returnLogSumExp: true},
  ): [Tensor4D, Tensor3D];
  (
    q: Tensor | TensorLike,
    k: Tensor | TensorLike,
    v: Tensor | TensorLike,
    mask?: MaskLike,
    options?: FlashMaskAttentionOptions & {returnLogSumExp?: false},
  ): Tensor4D;
  (
    q: Tensor | TensorLike,
    k: Tensor | TensorLike,
    v: Tensor | TensorLike,
    mask?: MaskLike,
    options?: FlashMaskAttentionOptions,
  ): Tensor4D | [Tensor4D, Tensor3D];
}

/**
 * Attention with a column-interval mask (FlashMask, arXiv 2410.01359, section 4): `softmax(scale · q kᵀ + mask) v`.
 * Memory is linear in the lengths, and tiles that the mask empties are not computed. Differentiable in q, k and v, to
 * any order.
 *
 * A query row that sees no key gives 0, the log-sum-exp -Infinity, and exactly 0 to every gradient.
 *
 * ```js
 * const q = tf.randomNormal([1, 1024, 8, 64]); // [B, Sq, H, D]
 * const k = tf.randomNormal([1, 1024, 2, 64]); // [B, Sk, Hkv, D]: each key head serves 4 query heads
 * const v = tf.randomNormal([1, 1024, 2, 64]); // [B, Sk, Hkv, Dv]
 * const mask = masks.causalDocument([300, 500, 224]); // three packed texts
 * const out = flashMaskAttention(q, k, v, mask); // [B, Sq, H, Dv]
 * const [same, lse] = flashMaskAttention(q, k, v, mask, {returnLogSumExp: true});
 * ```
 *
 * @param q float32 `[B, Sq, H, D]`, or `[B, H, Sq, D]` with `layout: 'bhsd'`. D and Dv are from 1 to 256.
 * @param k float32 `[B, Sk, Hkv, D]`; H is a multiple of Hkv.
 * @param v float32 `[B, Sk, Hkv, Dv]`.
 * @param mask a `FlashMask`; or Paddle's `startend_row_indices`, int32 `[1 or B, 1 or Hkv or H, Sk, n]`, for which two
 *   vectors need `causal` in the options; or null for no mask.
 * @param options see {@link FlashMaskAttentionOptions}.
 * @returns float32 `[B, Sq, H, Dv]` in the layout of q; with `returnLogSumExp: true`, that and the float32 `[B, H, Sq]`
 *   natural logarithms of each row's sum of exp(score), taken before dropout.
 * @throws Error naming the rule, the values got and the remedy, before any kernel runs.
 *
 * @doc {heading: 'Operations', subheading: 'Attention'}
 * @function
 * @category Attention
 */
export const flashMaskAttention = op({flashMaskAttention_}) as FlashMaskAttentionOp;
