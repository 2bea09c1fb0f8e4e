/**
 * @file Limits how many numbers are held at a time: allocating more than a machine has would end the process instead of
 * giving an error.
 */
import {fail} from '../../call/errors.js';

/** Most numbers that a mask or an array of arguments may hold: 2 GiB of int32. */
export const MAX_NUMBERS = 2 ** 29;

/** Throws if this shape has more numbers than may be held. */
export function checkCount(who: string, what: string, shape: readonly number[]): void {
  const count = shape.reduce((a, b) => a * b, 1);
  if (count <= MAX_NUMBERS) return;
  const got = `${count} (${shape.join(' × ')})`;
  fail(who, `${what} must be at most ${MAX_NUMBERS} numbers`, got, 'Use shorter rows, or fewer of them.');
}
