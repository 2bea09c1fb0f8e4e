/** @file Seeded random numbers, so that a mask drawn at random is the same on every machine. */

/** A source of uniform numbers in [0, 1), as `Math.random` is. */
export type Random = () => number;

/** The generator mulberry32. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Whole number in [low, high). */
export function randomInteger(random: Random, low: number, high: number): number {
  return low + Math.floor(random() * (high - low));
}
