/** @file Generates text token by token with a key-value cache: one query attends to all keys so far. */
import * as tf from '@tensorflow/tfjs';
import {uniform} from '../random.js';
import {KeyValueCache, cachedAttention} from './cache.js';
import type {LlamaConfig} from './config.js';
import type {Adapter, Llama} from './llama.js';
import {type SamplingOptions, checkSampling, chooseToken} from './sampling.js';

export interface GenerateOptions extends SamplingOptions {
  maxNewTokens: number;
  seed: number;
  adapter?: Adapter | null;
  /** Tokens that end the text. They are not yielded. */
  eosTokenIds: readonly number[];
}

/**
 * Yields the tokens that continue a prompt, each as soon as it is chosen. It stops at one of `eosTokenIds`, after
 * `maxNewTokens`, or at the end of the model's context.
 *
 * @throws Error for an empty prompt, a prompt that fills the context, a token outside the vocabulary, numbers out of
 *   range, and a model whose logits are NaN.
 * @example
 * ```ts
 * const options = {maxNewTokens: 100, temperature: 0.7, topP: 0.9, seed: 1, eosTokenIds: model.config.eosTokenIds};
 * for await (const token of generateTokens(model, tokenizer.encode('Once'), options))
 *   process.stdout.write(tokenizer.decode([token]));
 * ```
 */
export async function* generateTokens(
  model: Llama,
  promptIds: readonly number[],
  options: GenerateOptions,
): AsyncGenerator<number> {
  checkSampling(options);
  checkPrompt(promptIds, model.config);
  checkLength(options.maxNewTokens);
  const random = uniform(options.seed);
  const room = contextLength(model.config) - promptIds.length;
  const cache = new KeyValueCache(model.config.slidingWindows);
  try {
    let pending = promptIds;
    let start = 0;
    for (let written = 0; written < Math.min(options.maxNewTokens, room); written++) {
      const logits = await nextLogits(model, pending, {start, cache, adapter: options.adapter});
      const token = chooseToken(logits, options, random());
      if (options.eosTokenIds.includes(token)) return;
      yield token;
      start += pending.length;
      pending = [token];
    }
  } finally {
    cache.dispose();
  }
}

/** Number of tokens that the model can read. Dynamic scaling reaches beyond `maxPositions`. */
function contextLength({maxPositions, rope: {scaling}}: LlamaConfig): number {
  return scaling?.type === 'dynamic' ? Math.floor(scaling.factor * maxPositions) : maxPositions;
}

function checkPrompt(promptIds: readonly number[], config: LlamaConfig): void {
  const limit = contextLength(config);
  if (promptIds.length === 0 || promptIds.length >= limit) {
    throw new Error(
      `The prompt must have 1 to ${limit - 1} tokens, for the model reads ${limit}; got ${promptIds.length}.`,
    );
  }
  const unknown = promptIds.find((id) => !(Number.isSafeInteger(id) && id >= 0 && id < config.vocabSize));
  if (unknown !== undefined) {
    throw new Error(`The prompt's tokens must be integers from 0 to ${config.vocabSize - 1}, got ${unknown}.`);
  }
}

function checkLength(maxNewTokens: number): void {
  if (!(Number.isSafeInteger(maxNewTokens) && maxNewTokens > 0)) {
    throw new Error(`The number of new tokens must be a positive integer, got ${maxNewTokens}.`);
  }
}

interface Continuation {
  /** Number of tokens in the cache. */
  start: number;
  cache: KeyValueCache;
  adapter?: Adapter | null;
}

/** Adds `ids` to the cache and returns the logits of the token after them: one per token of the vocabulary. */
export async function nextLogits(
  model: Llama,
  ids: readonly number[],
  {start, cache, adapter}: Continuation,
): Promise<Float32Array> {
  const logits = tf.tidy(() => {
    const tokens = {
      ids: tf.tensor2d([...ids], [1, ids.length], 'int32'),
      positions: Int32Array.from(ids, (_, i) => start + i),
    };
    const hidden = model.hidden(tokens, cachedAttention(model.config), {adapter, cache});
    return tf.matMul(hidden.slice([ids.length - 1, 0], [1, -1]), model.head, false, true);
  });
  const values = await logits.data<'float32'>();
  logits.dispose();
  // With NaN logits the choice would be arbitrary.
  if (values.some(Number.isNaN)) {
    throw new Error(
      'The model gives logits that are no numbers (NaN): its weights are damaged, or its training failed.',
    );
  }
  return values;
}
