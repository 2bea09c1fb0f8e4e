/**
 * @file The attentions that benchmarks time: the op, its kernels one by one, and dense masked attention of tfjs ops.
 */
import * as tf from '@tensorflow/tfjs-core';
import {flashMaskAttention, type FlashMask, type FlashMaskAttentionOptions} from '../src/entries/index.js';
import {
  FlashMaskAttention,
  FlashMaskAttentionGrad,
  type FlashMaskAttentionAttrs,
  type Layout,
  type Precision,
} from '../src/call/kernel_names.js';
import {boundsTensorOf} from '../src/mask/bounds/bounds_cache.js';
import type {WebGPUBackend} from '../src/backends/webgpu/run/tfjs_backend.js';

export type Attention = (q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D) => tf.Tensor4D;

export interface Sizes {
  N: number;
  H: number;
  D: number;
}

/** Rows of noise to draw. Longer sequences repeat them, because the host needs a microsecond per number. */
const NOISE_ROWS = 512;

/** Normal noise `[1, H, N, D]`. */
export function noise(H: number, N: number, D: number, seed: number): tf.Tensor4D {
  const rows = N % NOISE_ROWS === 0 ? NOISE_ROWS : N;
  return tf.tidy(() => tf.tile(tf.randomNormal([1, H, rows, D], 0, 1, 'float32', seed), [1, 1, N / rows, 1]));
}

let latest: {sizes: string; tensors: tf.Tensor4D[]} | undefined;

/** q, k, v and dOut. They are kept until a call asks for other sizes, because the host draws them slowly. */
export function inputsOf({N, H, D}: Sizes): tf.Tensor4D[] {
  const sizes = [N, H, D].join(' ');
  if (latest?.sizes !== sizes) {
    tf.dispose(latest?.tensors ?? []);
    latest = {sizes, tensors: [1, 2, 3, 4].map((seed) => noise(H, N, D, seed))};
  }
  return latest.tensors;
}

type Options = Omit<FlashMaskAttentionOptions, 'layout'>;

/** The op on `[B, H, N, D]` tensors. */
export const flashAttention =
  (mask: FlashMask | null, options: Options = {}): Attention =>
  (q, k, v) =>
    flashMaskAttention(q, k, v, mask, {...options, layout: 'bhsd', returnLogSumExp: false});

/** Additive mask `[B or 1, Hm, N, N]`: 0 where a query sees a key, -1e9 where not. */
function denseBias(mask: FlashMask): tf.Tensor4D {
  const {batch, heads, queryLength, keyLength} = mask;
  const pairs = queryLength * keyLength;
  const bias = new Float32Array(batch * heads * pairs);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const visible = mask.toDense(b, h);
      const at = (b * heads + h) * pairs;
      for (let i = 0; i < pairs; i++) if (!visible[i]) bias[at + i] = -1e9;
    }
  }
  return tf.tensor4d(bias, [batch, heads, queryLength, keyLength]);
}

/** Why dense attention cannot run here, or undefined. It holds several tensors of H x N x N scores. */
export function denseObstacle({N, H}: Sizes, gpu: boolean): string | undefined {
  const bytes = 4 * H * N * N;
  const limit =
    tf.getBackend() === 'webgpu'
      ? (tf.backend() as unknown as WebGPUBackend).device.limits.maxStorageBufferBindingSize / 2
      : gpu ? 2 ** 31 : 2 ** 29; // prettier-ignore
  return bytes > limit ? `dense attention's scores take ${(bytes / 2 ** 30).toFixed(1)} GiB` : undefined;
}

/** softmax(QKᵀ / √D + bias) V on `[B, H, N, D]` tensors: what a user would write without the op. */
const denseAttention =
  (bias: tf.Tensor4D): Attention =>
  (q, k, v) => {
    const scores = tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(q.shape[3]));
    return tf.matMul(tf.softmax(tf.add(scores, bias)), v);
  };

/** Runs `work` with dense attention under a mask, then disposes its bias. */
export async function withDense<T>(mask: FlashMask, work: (dense: Attention) => Promise<T>): Promise<T> {
  const bias = denseBias(mask);
  try {
    return await work(denseAttention(bias));
  } finally {
    bias.dispose();
  }
}

/** The gradient of an attention in q, k and v. */
export const gradsOf = (attention: Attention) =>
  tf.grads((...x: tf.Tensor[]) => attention(x[0] as tf.Tensor4D, x[1] as tf.Tensor4D, x[2] as tf.Tensor4D));

/** Largest difference from the op, over rows that see a key: in others dense attention averages hidden values. */
export async function difference(
  mask: FlashMask | null,
  dense: Attention,
  [q, k, v]: tf.Tensor4D[],
  options: Options,
): Promise<number> {
  const worst = tf.tidy(() => {
    const [out, lse] = flashMaskAttention(q, k, v, mask, {...options, layout: 'bhsd', returnLogSumExp: true});
    const sees = tf.expandDims(tf.cast(tf.greater(lse, -1e30), 'float32'), 3);
    return tf.max(tf.mul(tf.abs(tf.sub(out, dense(q, k, v))), sees));
  });
  const [value] = await worst.data();
  worst.dispose();
  return value;
}

/** The op's two kernels on the tensors of its tape. They run the backward alone; tf.grads would run the forward too. */
export class AttentionKernels {
  private readonly attrs: FlashMaskAttentionAttrs;
  private readonly bounds: tf.Tensor4D;
  /** out, the row statistics and dLse, which the backward reads. Made on first use. */
  private saved: tf.Tensor[] = [];

  /** @param inputs q, k, v and dOut */
  constructor(
    private readonly inputs: readonly tf.Tensor4D[],
    mask: FlashMask,
    precision: Precision,
    layout: Layout = 'bhsd',
  ) {
    this.bounds = boundsTensorOf(mask, mask.keyLength);
    this.attrs = {
      causal: mask.causal, scale: 1 / Math.sqrt(inputs[0].shape[3]), layout, dropout: 0, seed: 0, precision, deterministic: false,
    }; // prettier-ignore
  }

  /** out, lse and the rows' statistics. */
  forwardAll(): tf.Tensor[] {
    const [q, k, v] = this.inputs;
    return this.run(FlashMaskAttention, {q, k, v, bounds: this.bounds});
  }

  /** out alone: lse may be infinite where a row sees no key. */
  forward(): tf.Tensor[] {
    const [out, ...rest] = this.forwardAll();
    tf.dispose(rest);
    return [out];
  }

  /** dq, dk and dv. */
  backward(): tf.Tensor[] {
    if (this.saved.length === 0) {
      const [out, lse, rowStats] = this.forwardAll();
      this.save(out, rowStats, lse.shape);
      lse.dispose();
    }
    const [q, k, v, dOut] = this.inputs;
    const [out, rowStats, dLse] = this.saved;
    return this.run(FlashMaskAttentionGrad, {q, k, v, bounds: this.bounds, out, rowStats, dOut, dLse});
  }

  /** Keeps what the backward reads of a finished forward. This object then owns the tensors. */
  save(out: tf.Tensor, rowStats: tf.Tensor, lseShape: number[]): void {
    // dLse as tfjs makes it when nobody uses lse: zeros on the host.
    this.saved = [out, rowStats, tf.zeros(lseShape)];
  }

  dispose(): void {
    tf.dispose(this.saved);
    this.saved = [];
  }

  private run(kernel: string, inputs: tf.NamedTensorMap): tf.Tensor[] {
    return tf.engine().runKernel<tf.Tensor[]>(kernel, inputs, this.attrs as unknown as tf.NamedAttrMap);
  }
}
