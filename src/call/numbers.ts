/** @file Numbers that more than one backend uses. */

/** Bytes of a float32. */
export const FLOAT = 4;

/** The smallest multiple of `step` that is at least `n`. */
export function roundUp(n: number, step: number): number {
  return Math.ceil(n / step) * step;
}
