/** @file The masks that benchmarks of native kernels time, the same as bench/cuda/masks.py; numbers in masks.json. */
import {masks, type FlashMask} from '../src/entries/index.js';
import lengths from './masks.json' with {type: 'json'};

/** Lengths of the same proportions that sum to N. */
export function scaled(parts: readonly number[], N: number): number[] {
  const total = parts.reduce((a, b) => a + b);
  const endOf = (i: number): number => {
    const whole = parts.slice(0, i).reduce((a, b) => a + b, 0);
    return Math.floor((2 * N * whole + total) / (2 * total));
  };
  return parts.map((_, i) => endOf(i + 1) - endOf(i));
}

/** A question, a tenth of its document, with two answers. */
function questionAndAnswers(length: number): number[] {
  const question = Math.max(1, Math.floor(length / 10));
  const first = Math.floor((length - question) / 2);
  return [question, first, length - question - first];
}

const windowOf = (N: number): number => Math.max(1, Math.floor(N / 16));

export const nativeMasks: Record<string, (N: number) => FlashMask> = {
  full: (N) => masks.full(N),
  causal: (N) => masks.causal(N),
  slidingWindow: (N) => masks.slidingWindow(N, windowOf(N)),
  causalDocument: (N) => masks.causalDocument(scaled(lengths.documents, N)),
  document: (N) => masks.document(scaled(lengths.documents, N)),
  sharedQuestion: (N) => masks.sharedQuestion(scaled(lengths.questions, N).map(questionAndAnswers)),
  globalSlidingWindow: (N) => masks.globalSlidingWindow(N, windowOf(N) - 1, windowOf(N)),
  prefixLmCausal: (N) => masks.prefixLmCausal(N, Math.floor(N / 2)),
};
