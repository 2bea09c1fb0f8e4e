/** @file Keys and values of earlier tokens, so that a model of layers generates a text token by token. */
import {
  type Tensor,
  type Tensor4D,
  type TensorContainer,
  concat,
  dispose,
  keep,
  ones,
  slice,
  tidy,
  util,
} from '@tensorflow/tfjs-core';
import {fail} from '../call/errors.js';

/** Keys, values and padding mask of one call of a layer. */
export interface CachedTokens {
  /** `[B, S, Hkv, D]`. */
  k: Tensor4D;
  /** `[B, S, Hkv, Dv]`. */
  v: Tensor4D;
  /** `[B, S]`, not 0 for tokens; null: all are. */
  tokens: Tensor | null;
}

interface Entry extends CachedTokens {
  layer: object;
  /** Tokens that this call has seen. */
  seen: number;
}

let active: KeyValueCache | null = null;

/** The cache of the run that is going on. */
export const activeCache = (): KeyValueCache | null => active;

/**
 * Keeps the keys and values of all self-attention layers of a model. Within `run`, they append the keys and values of
 * the tokens that they get, and the tokens see what the cache has. So each token is computed once.
 *
 * A layer whose mask is `slidingWindow` keeps as many tokens as its window needs.
 *
 * @example
 * const cache = new KeyValueCache();
 * let logits = cache.run(() => model.predict(prompt)); // [batch, tokens of the prompt]
 * logits = cache.run(() => model.predict(next)); // [batch, 1]
 * cache.dispose();
 */
export class KeyValueCache {
  private entries: Entry[] = [];
  private written: Entry[] = [];

  /** Tokens of each row of the batch that the cache has seen. */
  get length(): number {
    return this.entries.length > 0 ? this.entries[0].seen : 0;
  }

  /** Memory of the keys, values and padding masks on the device. */
  get numBytes(): number {
    const tensors = this.entries.flatMap(({k, v, tokens}) => (tokens ? [k, v, tokens] : [k, v]));
    return tensors.reduce((sum, {size, dtype}) => sum + size * util.bytesPerElement(dtype), 0);
  }

  /**
   * Runs a model on the tokens that follow those of earlier runs. If it throws, the cache stays as it was.
   *
   * @param body calls `predict` or `apply` of a model once, always the same one, on the whole batch. It must not wait.
   * @returns what `body` returns.
   */
  run<T extends TensorContainer>(body: () => T): T {
    const who = 'KeyValueCache.run';
    if (active !== null) fail(who, 'one cache may run at a time', 'a run within a run', 'End the other run first.');
    // eslint-disable-next-line @typescript-eslint/no-this-alias -- layers have no other way to it
    active = this;
    this.written = [];
    try {
      const result = tidy(() => {
        const made = body();
        this.checkRun(who);
        return made;
      });
      [this.entries, this.written] = [this.written, this.entries];
      return result;
    } finally {
      active = null;
      this.written.forEach(free);
    }
  }

  private checkRun(who: string): void {
    const {length} = this.entries.length > 0 ? this.entries : this.written;
    if (length === 0)
      fail(who, 'the model must have self-attention layers', 'none', 'Use FlashMaskMultiHeadAttention.');
    if (this.written.length === length) return;
    fail(who, `the model must call ${length} attention layers`, `${this.written.length}`, 'Run the same model.');
  }

  /** @ignore How many tokens the next layer of this run has seen. */
  get seen(): number {
    return this.next()?.seen ?? 0;
  }

  /**
   * Appends the tokens of a call.
   *
   * @param window The number of latest keys that a query sees, its own included.
   * @returns all keys and values that they may see.
   * @ignore
   */
  append(layer: object, now: CachedTokens, window: number): CachedTokens {
    const before = this.next();
    if (before === undefined ? this.entries.length > 0 : before.layer !== layer) {
      fail(
        'KeyValueCache.run',
        'runs must call the same layers in the same order',
        'another layer',
        'Use a new cache.',
      );
    }
    const [batch, length] = now.k.shape;
    if (before && before.k.shape[0] !== batch) {
      const remedy = 'Call predict with {batchSize} of the whole batch, and use a new cache for other rows.';
      fail('KeyValueCache.run', `all runs must have ${before.k.shape[0]} rows`, `${batch}`, remedy);
    }
    const all = before ? joined(before, now) : now;
    // The next token sees itself and the window - 1 tokens before it.
    const left = Math.min(all.k.shape[1], window - 1);
    const [k, v] = [keep(newest(all.k, left)), keep(newest(all.v, left))];
    const tokens = all.tokens && keep(newest(all.tokens, left));
    this.written.push({layer, seen: (before?.seen ?? 0) + length, k, v, tokens});
    return all;
  }

  /** What the next layer of this run wrote in the run before. */
  private next(): Entry | undefined {
    return this.entries[this.written.length];
  }

  /** Frees the keys and values. The cache is then as a new one. */
  dispose(): void {
    this.entries.splice(0).forEach(free);
  }
}

function joined(before: CachedTokens, now: CachedTokens): CachedTokens {
  const k = concat([before.k, now.k], 1);
  const v = concat([before.v, now.v], 1);
  if (before.tokens === null && now.tokens === null) return {k, v, tokens: null};
  const tokensOf = ({k: {shape}, tokens}: CachedTokens): Tensor => tokens ?? ones([shape[0], shape[1]], 'bool');
  return {k, v, tokens: concat([tokensOf(before), tokensOf(now)], 1)};
}

/** A new tensor of the latest `count` tokens. */
function newest<T extends Tensor>(x: T, count: number): T {
  if (count === x.shape[1]) return x.clone();
  const begin = x.shape.map((length, axis) => (axis === 1 ? length - count : 0));
  return slice(x, begin);
}

function free({k, v, tokens}: Entry): void {
  dispose([k, v, tokens].filter((x) => x !== null));
}
