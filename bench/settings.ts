/** @file What the benchmarks time, and how their options read lists. */
import type {FlashMask} from '../src/entries/index.js';

/** One attention: a mask by its name, and sizes. */
export interface Setting {
  name: string;
  mask: FlashMask;
  N: number;
  H: number;
  D: number;
}

/** `a, b` as an option. */
export const list = (text: string): string[] => text.split(',').map((one) => one.trim());

/** `512, 1024` as an option. */
export const numbers = (text: string): number[] => list(text).map(positive);

/** A size as an option. */
export function positive(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new Error(`bench: sizes must be positive integers, got '${text}'.`);
  return value;
}
