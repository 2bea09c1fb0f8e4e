/** @file Recognizes arrays and tensors among arguments. */
import type {Tensor} from '@tensorflow/tfjs-core';

/** An array or a typed array. */
export function isArray(value: unknown): value is ArrayLike<unknown> {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
}

/**
 * Whether a value is a tensor of any copy of tfjs. An object that only has a tensor's fields, for example one read from
 * JSON, is not.
 */
export function isTensor(value: unknown): value is Tensor {
  if (typeof value !== 'object' || value === null) return false;
  const t = value as Partial<Tensor>;
  return typeof t.data === 'function' && typeof t.dtype === 'string' && Array.isArray(t.shape) && t.dataId != null;
}
