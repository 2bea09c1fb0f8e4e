/** @file Bounds of the host as a tensor. */
import {type Tensor4D, tensor4d} from '@tensorflow/tfjs-core';
import type {HostBounds} from './intervals.js';

/** A new int32 tensor `[batch, heads, keyLength, vectors]`. It is a copy: no backend aliases the mask. */
export function boundsTensor({bounds, batch, heads, keyLength, vectors}: StoredBounds): Tensor4D {
  return tensor4d(bounds!.slice(), [batch, heads, keyLength, vectors], 'int32');
}

/** What a tensor needs of them. */
type StoredBounds = Omit<HostBounds, 'queryLength' | 'causal'>;
