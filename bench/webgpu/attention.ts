/** @file One attention on the current WebGPU backend, whose forward and backward are run, and so timed, each by itself. */
import * as tf from '@tensorflow/tfjs-core';
import type {FlashMask} from '../../src/entries/index.js';
import {
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type FlashMaskAttentionAttrs,
  type Precision,
} from '../../src/call/kernel_names.js';
import {boundsTensorOf} from '../../src/mask/bounds/bounds_cache.js';
import {noise} from '../inputs.js';

/** q, k, v and dOut, normal noise `[1, H, N, D]`; all masks of a size share them. */
export class Inputs {
  readonly tensors: tf.Tensor4D[];

  constructor(
    readonly N: number,
    readonly H: number,
    readonly D: number,
  ) {
    this.tensors = [1, 2, 3, 4].map((seed) => noise(H, N, D, seed));
  }

  dispose(): void {
    tf.dispose(this.tensors);
  }
}

/** Runs kernels rather than the op, so that the backward can be had without a forward. Its tensors are those of the op's tape. */
export class MaskedAttention {
  private readonly attrs: FlashMaskAttentionAttrs;
  private readonly bounds: tf.Tensor4D;
  /** out, the rows' statistics and dLse for the backward; made when it is first asked for. */
  private saved: tf.Tensor[] = [];

  constructor(
    private readonly inputs: Inputs,
    mask: FlashMask,
    precision: Precision,
  ) {
    this.bounds = boundsTensorOf(mask, inputs.N);
    this.attrs = {
      causal: mask.causal,
      scale: 1 / Math.sqrt(inputs.D),
      layout: 'bhsd',
      dropout: 0,
      seed: 0,
      precision,
      deterministic: false,
    };
  }

  /** out alone: lse may be infinite where a row sees no key. */
  forward(): tf.Tensor[] {
    const [out, ...rest] = this.runForward();
    tf.dispose(rest);
    return [out];
  }

  /** dq, dk and dv. */
  backward(): tf.Tensor[] {
    const {H, N} = this.inputs;
    // dLse as tfjs makes it where nobody uses lse: zeros on the host.
    if (this.saved.length === 0) {
      const [out, lse, rowStats] = this.runForward();
      lse.dispose();
      this.saved = [out, rowStats, tf.zeros([1, H, N])];
    }
    const [q, k, v, dOut] = this.inputs.tensors;
    const [out, rowStats, dLse] = this.saved;
    return this.run(FlashMaskAttentionGrad, {q, k, v, bounds: this.bounds, out, rowStats, dOut, dLse});
  }

  dispose(): void {
    tf.dispose(this.saved);
    this.saved = [];
  }

  private runForward(): tf.Tensor[] {
    const [q, k, v] = this.inputs.tensors;
    return this.run(FlashMaskAttention, {q, k, v, bounds: this.bounds});
  }

  private run(kernel: string, inputs: tf.NamedTensorMap): tf.Tensor[] {
    return tf.engine().runKernel<tf.Tensor[]>(kernel, inputs, this.attrs as unknown as tf.NamedAttrMap);
  }
}
