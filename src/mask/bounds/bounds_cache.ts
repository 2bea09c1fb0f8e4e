/**
 * @file The bounds of host masks as int32 tensors on the current backend. There is one tensor per mask, so that all
 * layers and both passes see one data id (the WebGPU kernels cache the bounds map by it) and a training loop allocates
 * nothing.
 */
import {type DataId, type Tensor4D, engine, keep} from '@tensorflow/tfjs-core';
import type {FlashMask} from '../flash_mask.js';
import {boundsTensor} from './bounds_tensor.js';

/** Most masks kept at a time. Each holds B·Hm·Sk·n int32 values on the backend. */
export const BOUNDS_CACHE_SIZE = 8;

interface Entry {
  /** The mask; or the key length, on which alone the tensor of a call without intervals depends. */
  key: FlashMask | number;
  backend: unknown;
  tensor: Tensor4D;
}

/** Least recently used first. */
const entries: Entry[] = [];

/** Host values of tensors made here, so that the composed kernels need not read them back from the device. */
const hostValues = new WeakMap<DataId, Int32Array>();

/**
 * The bounds tensor of a mask, made at most once per mask and backend. This cache owns it: do not dispose it.
 *
 * @param mask null for no mask. For a mask with a `boundsTensor`, that tensor is returned.
 * @param keyLength Sk.
 * @returns int32 `[batch, heads, Sk, n]`, or `[1, 1, Sk, 0]` if the mask has no row intervals.
 */
export function boundsTensorOf(mask: FlashMask | null, keyLength: number): Tensor4D {
  if (mask?.boundsTensor) return mask.boundsTensor;
  const key = mask && mask.vectors > 0 ? mask : keyLength;
  const backend = engine().backend;
  const at = entries.findIndex((e) => e.key === key && e.backend === backend);
  const entry = at >= 0 ? entries.splice(at, 1)[0] : undefined;
  const tensor = entry && !entry.tensor.isDisposed ? entry.tensor : makeBounds(key);
  entries.push({key, backend, tensor});
  while (entries.length > BOUNDS_CACHE_SIZE) entries.shift()!.tensor.dispose();
  return tensor;
}

/** The values of a bounds tensor if this cache made it (a clone counts: it has the same data id), else null. */
export function hostBoundsOf(dataId: DataId): Int32Array | null {
  return hostValues.get(dataId) ?? null;
}

/** Disposes the cached bounds tensors. They are made again when needed. */
export function clearBoundsCache(): void {
  entries.splice(0).forEach(({tensor}) => tensor.dispose());
}

function makeBounds(key: FlashMask | number): Tensor4D {
  const none = {bounds: new Int32Array(0), batch: 1, heads: 1, keyLength: key as number, vectors: 0} as const;
  const host = typeof key === 'number' ? none : key;
  // Kept, so that a tidy() around the op does not dispose a tensor that later calls share.
  const tensor = keep(boundsTensor(host));
  hostValues.set(tensor.dataId, host.bounds!);
  return tensor;
}
