/** @file Searches the longest length that works. All shorter lengths must work and all longer ones must fail. */

interface SearchOptions {
  /** The first length to try. It is doubled while it works. */
  from: number;
  upTo: number;
  /** How often to halve the gap between the lengths that work and those that do not. */
  bisections: number;
}

/**
 * Doubles a length until it fails, then halves the gap.
 *
 * @param works Whether a length works; null if that cannot be told, which ends the search.
 * @returns the longest length that worked, 0 if none
 */
export async function longest(
  works: (N: number) => Promise<boolean | null>,
  {from, upTo, bisections}: SearchOptions,
): Promise<number> {
  let low = 0;
  let high = from;
  let found = await works(high);
  while (found === true && 2 * high <= upTo) {
    low = high;
    high *= 2;
    found = await works(high);
  }
  if (found === true) return high;
  for (let i = 0; i < bisections && found !== null && high - low > 1; i++) {
    const middle = (low + high) >> 1;
    found = await works(middle);
    if (found === true) low = middle;
    else high = middle;
  }
  return low;
}

/** Lengths near the end of memory are multiples of it. */
const MULTIPLE = 4096;
/** The first of them, of the length at which memory should end, and the steps from there. */
const NEAR = 0.94;
const CLOSER = 0.03;

/**
 * Lengths to try, one after another, until one fails.
 *
 * @param end where memory should end
 * @param done a length that works
 */
export function lengthsNear(end: number, done: number, upTo: number): number[] {
  const lengths: number[] = [];
  let N = done;
  for (let share = NEAR; N < upTo; share += CLOSER) {
    const next = Math.round((Math.min(end, upTo) * share) / MULTIPLE) * MULTIPLE;
    N = Math.min(Math.max(N + MULTIPLE, next), upTo);
    lengths.push(N);
  }
  return lengths;
}
