/** @file The longest length that works, where all shorter ones do and all longer ones do not. */

interface SearchOptions {
  /** Tried first, and doubled while it works. */
  from: number;
  upTo: number;
  /** Times that the gap between what works and what does not is halved. */
  bisections: number;
}

/**
 * Doubles a length until it does not work, then halves the gap.
 *
 * @param works Whether a length does; null if that cannot be told, which ends the search.
 * @returns the longest that did, 0 if none
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
