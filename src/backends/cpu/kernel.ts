/** @file The two kernels as tfjs registers them for the backend 'cpu'. */
import type {TensorInfo, TypedArray} from '@tensorflow/tfjs-core';
import {kernelConfig} from '../../call/kernel_config.js';
import {
  type FlashMaskAttentionAttrs,
  type FlashMaskAttentionGradInputs,
  type FlashMaskAttentionInputs,
  FlashMaskAttention,
  FlashMaskAttentionGrad,
} from '../../call/kernel_names.js';
import {type Dropout, dropoutOf} from '../../call/dropout.js';
import {problemOf, shapeOf} from '../../call/problem.js';
import {backward} from './backward.js';
import {forward} from './forward.js';

/** The part of tfjs's MathBackendCPU that these kernels use. */
interface CpuBackend {
  readSync(dataId: object): TypedArray;
  makeTensorInfo(shape: number[], dtype: 'float32', values: TypedArray): TensorInfo;
}

export const flashMaskAttentionConfig = kernelConfig<FlashMaskAttentionInputs, CpuBackend>(
  FlashMaskAttention,
  'cpu',
  ({inputs, attrs, backend}) => {
    const p = problemOf(inputs, attrs);
    const out = new Float32Array(p.B * p.Sq * p.H * p.Dv);
    const lse = new Float32Array(p.B * p.H * p.Sq);
    const rowStats = new Float32Array(2 * lse.length);
    forward(p, readInputs(backend, inputs), attrs.scale, dropoutFrom(attrs), {out, lse, rowStats});
    return [
      backend.makeTensorInfo(shapeOf(p, p.Sq, p.H, p.Dv), 'float32', out),
      backend.makeTensorInfo([p.B, p.H, p.Sq], 'float32', lse),
      backend.makeTensorInfo([p.B, p.H, p.Sq, 2], 'float32', rowStats),
    ];
  },
);

export const flashMaskAttentionGradConfig = kernelConfig<FlashMaskAttentionGradInputs, CpuBackend>(
  FlashMaskAttentionGrad,
  'cpu',
  ({inputs, attrs, backend}) => {
    const p = problemOf(inputs, attrs);
    const arrays = {
      ...readInputs(backend, inputs),
      out: floats(backend, inputs.out),
      rowStats: floats(backend, inputs.rowStats),
      dOut: floats(backend, inputs.dOut),
      dLse: floats(backend, inputs.dLse),
    };
    const dq = new Float32Array(arrays.q.length);
    const dk = new Float32Array(arrays.k.length);
    const dv = new Float32Array(arrays.v.length);
    backward(p, arrays, attrs.scale, dropoutFrom(attrs), {dq, dk, dv});
    return [
      backend.makeTensorInfo(inputs.q.shape, 'float32', dq),
      backend.makeTensorInfo(inputs.k.shape, 'float32', dk),
      backend.makeTensorInfo(inputs.v.shape, 'float32', dv),
    ];
  },
);

function readInputs(
  backend: CpuBackend,
  {q, k, v, bounds}: FlashMaskAttentionInputs,
): {q: Float32Array; k: Float32Array; v: Float32Array; bounds: Int32Array} {
  return {
    q: floats(backend, q),
    k: floats(backend, k),
    v: floats(backend, v),
    bounds: Int32Array.from(backend.readSync(bounds.dataId)),
  };
}

/** The backend's own float32 array, not copied, so do not write to it. Other array types are copied. */
function floats(backend: CpuBackend, info: TensorInfo): Float32Array {
  const values = backend.readSync(info.dataId);
  return values instanceof Float32Array ? values : Float32Array.from(values);
}

/** The dropout parameters; null if nothing is dropped. */
function dropoutFrom({dropout, seed}: FlashMaskAttentionAttrs): Dropout | null {
  return dropout > 0 ? dropoutOf(dropout, seed) : null;
}
