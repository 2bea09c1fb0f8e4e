/** @file Times and memory of one attention: the suite `masks` and the page of site/gpu measure alike. */
import * as tf from '@tensorflow/tfjs-core';
import {gradsOf, inputsOf, type Attention, type Sizes} from './attention.js';
import {peakBytesOf, time} from './clock.js';
import {passFigures, type Figures} from './record.js';

interface Settings {
  /** Seconds per measurement. */
  seconds: number;
  forwardOnly?: boolean;
  /** Whether the backend tells what it holds. */
  countBytes: boolean;
}

/** Times one attention, forward and forward with backward. The backward is the difference. */
export async function figuresOf(
  attention: Attention,
  call: Sizes & {masked: number},
  {seconds, forwardOnly, countBytes}: Settings,
): Promise<Figures> {
  const [q, k, v, dOut] = inputsOf(call);
  const forward = (): tf.Tensor[] => [tf.tidy(() => attention(q, k, v))];
  const both = (): tf.Tensor[] => gradsOf(attention)([q, k, v], dOut);
  const {firstMs, ms: forwardMs} = await time(forward, seconds);
  const backwardMs = forwardOnly ? undefined : (await time(both, seconds)).ms - forwardMs;
  return {
    masked: call.masked,
    compileMs: firstMs - forwardMs,
    ...passFigures(call, forwardMs, backwardMs),
    ...(countBytes ? {peakBytes: await peakBytesOf(forwardOnly ? forward : both)} : {}),
  };
}
