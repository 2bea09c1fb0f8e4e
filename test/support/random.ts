/** @file Seeded random numbers for tests: the same name always gives the same numbers, on every machine. */

/** A source of uniform numbers in [0, 1), like `Math.random`. */
export type Random = () => number;

/** FNV-1a of a text, which turns a case's name into its seed. */
function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  }
  return h >>> 0;
}

/** The generator mulberry32, seeded by a number or by a name. */
export function seeded(seed: number | string): Random {
  let state = typeof seed === 'string' ? hash(seed) : seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Integer in [low, high). */
export function integer(random: Random, low: number, high: number): number {
  return low + Math.floor(random() * (high - low));
}

/** One of the values. */
export function choose<T>(random: Random, values: readonly T[]): T {
  return values[integer(random, 0, values.length)];
}

/** Normally distributed float32 numbers with mean 0 and the given standard deviation (Box-Muller). */
export function normals(random: Random, count: number, deviation = 1): Float32Array {
  const values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    values[i] = deviation * radius * Math.cos(2 * Math.PI * random());
  }
  return values;
}
