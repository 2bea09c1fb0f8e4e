/** @file Keeps the keys and values of earlier tokens, so that a text can be generated one token at a time. */
import * as tf from '@tensorflow/tfjs';
import {flashMaskAttention, masks} from '../../../src/entries/index.js';
import type {LlamaConfig} from './config.js';
import type {Attend} from './llama.js';

interface KeysAndValues {
  k: tf.Tensor4D;
  v: tf.Tensor4D;
}

/** Owns its tensors: `dispose()` frees them. */
export class KeyValueCache {
  private readonly layers: KeysAndValues[] = [];

  /**
   * @param windows Per layer the number of keys that a query sees, itself included; null for all. Older keys are
   *   dropped.
   */
  constructor(private readonly windows: LlamaConfig['slidingWindows']) {}

  /**
   * Appends keys and values of new tokens, `[B, S, Hkv, D]` each.
   *
   * @returns Keys and values of the new tokens and of all earlier tokens that they may see.
   */
  append(layer: number, now: KeysAndValues): KeysAndValues {
    const before = this.layers[layer] as KeysAndValues | undefined;
    const all = before === undefined ? now : {k: tf.concat([before.k, now.k], 1), v: tf.concat([before.v, now.v], 1)};
    // The next token sees itself and the window - 1 tokens before it.
    const left = Math.min(all.k.shape[1], (this.windows[layer] ?? Infinity) - 1);
    this.layers[layer] = {k: tf.keep(newest(all.k, left)), v: tf.keep(newest(all.v, left))};
    if (before !== undefined) tf.dispose([before.k, before.v]);
    return all;
  }

  dispose(): void {
    this.layers.splice(0).forEach(({k, v}) => tf.dispose([k, v]));
  }
}

function newest(x: tf.Tensor4D, count: number): tf.Tensor4D {
  return tf.slice(x, [0, x.shape[1] - count, 0, 0], [-1, count, -1, -1]);
}

/**
 * Causal attention of new tokens to a cache's keys, aligned at the end: the last query sees every key or its window.
 */
export function cachedAttention({slidingWindows}: LlamaConfig): Attend {
  return (q, k, v, layer) => {
    const [queryLength, keyLength] = [q.shape[1], k.shape[1]];
    const window = slidingWindows[layer];
    if (window === null || keyLength <= window) return flashMaskAttention(q, k, v, null, {causal: true});
    return flashMaskAttention(q, k, v, masks.slidingWindow(keyLength, window, {queryLength}));
  };
}
