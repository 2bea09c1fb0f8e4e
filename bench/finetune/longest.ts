/** @file The longest length that works, where all shorter ones do and all longer ones do not. */

export interface SearchOptions {
  /** Tried first, and doubled while it works. */
  from: number;
  upTo: number;
  /** Times that the gap between what works and what does not is halved. */
  bisections: number;
}

/**
 * Doubles a length until it does not work, then halves the gap.
 *
 * @param works Whether a length does.
 * @returns the longest that did, 0 if none, and the shortest that did not, null if `upTo` did
 */
export async function longest(
  works: (N: number) => Promise<boolean>,
  {from, upTo, bisections}: SearchOptions,
): Promise<{longest: number; failed: number | null}> {
  let low = 0;
  let high: number | null = null;
  for (let N = from; N <= upTo && high === null; N *= 2) {
    if (await works(N)) low = N;
    else high = N;
  }
  for (let i = 0; i < bisections && high !== null && high - low > 1; i++) {
    const middle = (low + high) >> 1;
    if (await works(middle)) low = middle;
    else high = middle;
  }
  return {longest: low, failed: high};
}
