/** @file Writes a text token by token, with a key-value cache: flashMaskAttention of one query on all keys so far. */
import * as tf from '@tensorflow/tfjs';
import {flashMaskAttention} from '../../src/index.js';
import type {Attend, Decoder, KeyValueCache} from './model.js';
import {encodePrompt} from './texts.js';
import {Tokenizer} from './tokenizer.js';

/** Bottom-right aligned: the last query sees every key. */
const attend: Attend = (q, k, v) => flashMaskAttention(q, k, v, null, {causal: true});

/** The most likely continuation of a prompt, until `<eos>`, `count` tokens or the end of the model's context. */
export async function generate(model: Decoder, tokenizer: Tokenizer, prompt: string, count: number): Promise<string> {
  const cache: KeyValueCache = [];
  const written: number[] = [];
  let pending = encodePrompt(prompt, tokenizer);
  let start = 0;
  try {
    while (written.length < count && start + pending.length <= model.config.maxLength) {
      const token = await nextToken(model, pending, start, cache);
      start += pending.length;
      pending = [token];
      if (token === Tokenizer.EOS) {
        break;
      }
      written.push(token);
    }
  } finally {
    tf.dispose(cache);
  }
  return tokenizer.decode(written);
}

async function nextToken(model: Decoder, ids: number[], start: number, cache: KeyValueCache): Promise<number> {
  const best = tf.tidy(() => {
    const positions = ids.map((_, i) => start + i);
    const tokens = {
      ids: tf.tensor2d([ids], undefined, 'int32'),
      positions: tf.tensor2d([positions], undefined, 'int32'),
    };
    const last = model.logits(tokens, attend, cache).slice([ids.length - 1, 0], [1, -1]);
    return last.argMax(-1);
  });
  const [token] = await best.data();
  best.dispose();
  return token;
}
