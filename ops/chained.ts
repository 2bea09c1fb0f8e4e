/**
 * @file The chained form, `q.flashMaskAttention(k, v, mask, options)`, on the Tensor class of the tfjs-core that is
 * loaded.
 */
import {type Rank, Tensor, type TensorLike} from '@tensorflow/tfjs-core';
import {type FlashMaskAttentionOptions, type MaskLike, flashMaskAttention} from './flash_mask_attention.js';

// This names the file that declares the class: augmenting the package itself would hide the class that it re-exports.
declare module '@tensorflow/tfjs-core/dist/tensor.js' {
  // eslint-disable-next-line @typescript-eslint/no-unused-vars -- repeats the parameter of the class
  interface Tensor<R extends Rank = Rank> {
    /** {@link flashMaskAttention} with this tensor as q. */
    flashMaskAttention(
      k: Tensor | TensorLike,
      v: Tensor | TensorLike,
      mask: MaskLike | undefined,
      options: FlashMaskAttentionOptions & {returnLogSumExp: true},
    ): [Tensor4D, Tensor3D];
    flashMaskAttention(
      k: Tensor | TensorLike,
      v: Tensor | TensorLike,
      mask?: MaskLike,
      options?: FlashMaskAttentionOptions & {returnLogSumExp?: false},
    ): Tensor4D;
    flashMaskAttention(
      k: Tensor | TensorLike,
      v: Tensor | TensorLike,
      mask?: MaskLike,
      options?: FlashMaskAttentionOptions,
    ): Tensor4D | [Tensor4D, Tensor3D];
  }
}

/** The type of `q.flashMaskAttention`. */
export type ChainedFlashMaskAttention = Tensor['flashMaskAttention'];

/** Adds the chained op, once, to the one Tensor class that all copies of tfjs-core share. */
export function addChainedOp(): void {
  const globals = (globalThis as {_tfGlobals?: Map<string, unknown>})._tfGlobals;
  const prototype = ((globals?.get('Tensor') ?? Tensor) as typeof Tensor).prototype;
  if ('flashMaskAttention' in prototype) return;
  const chained = function (this: Tensor, ...args: unknown[]): unknown {
    return (flashMaskAttention as (...all: unknown[]) => unknown)(this, ...args);
  };
  Object.defineProperty(prototype, 'flashMaskAttention', {value: chained, writable: true, configurable: true});
}
