/**
 * @file Names and typed inputs and attributes of the two kernels. Every backend implements exactly these.
 *
 * Shapes below are for layout 'bshd'; layout 'bhsd' swaps the sequence and head axes of q, k, v, out and dOut.
 */
import type {KernelConfig, NamedTensorInfoMap, TensorInfo} from '@tensorflow/tfjs-core';

/**
 * Name of the forward kernel.
 *
 * @internal
 */
export const FlashMaskAttention = 'FlashMaskAttention';
/**
 * Name of the gradient kernel.
 *
 * @internal
 */
export const FlashMaskAttentionGrad = 'FlashMaskAttentionGrad';

/** Axis order of q, k, v and out: batch, sequence, head, channel; or batch, head, sequence, channel. */
export type Layout = 'bshd' | 'bhsd';

/** Precision of the inputs of matrix multiplications, which always accumulate in float32. */
export type Precision = 'auto' | 'float32' | 'float16' | 'bfloat16';

/**
 * Inputs of the forward kernel; its outputs are `out [B, Sq, H, Dv]`, `lse [B, H, Sq]` (natural log) and `rowStats [B,
 * H, Sq, 2]`.
 *
 * `rowStats` holds (max, sum) of each row. max is the number that was subtracted from the row's scores, in the kernel's
 * own unit (base e or base 2). sum is the sum of the exponentials of the differences. A row that sees no key has (any
 * finite number, 0). The gradient kernel of the same backend recomputes the weights from both. It cannot use lse alone:
 * lse is rounded, so the weights of large scores would be wrong by |lse| rounding steps.
 */
export interface FlashMaskAttentionInputs extends NamedTensorInfoMap {
  /** `[B, Sq, H, D]` float32 */
  q: TensorInfo;
  /** `[B, Sk, Hkv, D]` float32 */
  k: TensorInfo;
  /** `[B, Sk, Hkv, Dv]` float32 */
  v: TensorInfo;
  /** `[1 or B, Hm, Sk, n]` int32 row bounds with n of 0 (no intervals), 1, 2 or 4; Hm is 1, Hkv or H. */
  bounds: TensorInfo;
}

/** Inputs of the gradient kernel; its outputs are `dq`, `dk`, `dv`, shaped like q, k, v. */
export interface FlashMaskAttentionGradInputs extends FlashMaskAttentionInputs {
  /** `[B, Sq, H, Dv]` */
  out: TensorInfo;
  /** `[B, H, Sq, 2]`, as the forward kernel of the same backend gives it. */
  rowStats: TensorInfo;
  /** `[B, Sq, H, Dv]` */
  dOut: TensorInfo;
  /** `[B, H, Sq]` */
  dLse: TensorInfo;
}

/**
 * Attributes of both kernels. The op sets all of them; kernels fill in no defaults.
 *
 * @internal
 */
export interface FlashMaskAttentionAttrs {
  /** Also mask r < j - (Sk - Sq), and read n = 1, 2 bounds as lower intervals (see docs/masks.md). */
  causal: boolean;
  /** Factor of q·k before the softmax. */
  scale: number;
  layout: Layout;
  /** Probability in [0, 1) that a pair's weight is dropped; the others are divided by 1 - dropout. */
  dropout: number;
  /** Non-negative safe integer: the key of the counter-based generator that chooses dropped pairs. */
  seed: number;
  precision: Precision;
  /** Bit-identical gradients from run to run. */
  deterministic: boolean;
  /** Whether nobody sees lse. No gradient comes through it then, and a kernel need not look for one. */
  lseUnused?: boolean;
}

/** A registered kernel that may support more precisions than 'auto' and 'float32', and lists them. */
export interface KernelWithPrecisions extends KernelConfig {
  precisionsOn?(backend: object): readonly Precision[];
}
