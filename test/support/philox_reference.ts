/**
 * @file Philox4x32-10 (Salmon et al., SC 2011) in big integers, written from its definition without code of
 * `src/call/dropout.ts`, and which pairs of an attention call dropout drops.
 */

const WORD = 0xffffffffn;
const MULTIPLIERS = [0xd2511f53n, 0xcd9e8d57n] as const;
const WEYL = [0x9e3779b9n, 0xbb67ae85n] as const;

type Words4 = [bigint, bigint, bigint, bigint];

/** Ten Philox rounds of a 128-bit counter under a 64-bit key. */
export function philox(counter: Words4, key: [bigint, bigint]): Words4 {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const p0 = MULTIPLIERS[0] * c0;
    const p1 = MULTIPLIERS[1] * c2;
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & WORD, (p0 >> 32n) ^ c3 ^ k1, p0 & WORD];
    k0 = (k0 + WEYL[0]) & WORD;
    k1 = (k1 + WEYL[1]) & WORD;
  }
  return [c0, c1, c2, c3];
}

/**
 * The rule of dropped pairs: counter (floor(j / 4), r, b * H + h, 0), key (low, high word of the seed), word j mod 4,
 * dropped if below floor(dropout * 2^32).
 *
 * @returns `kept(b, h, r, j)`, with the draws of one row of four keys computed once.
 */
export function keptPairs(H: number, dropout: number, seed: number) {
  const key: [bigint, bigint] = [BigInt(seed) & WORD, BigInt(seed) >> 32n];
  const threshold = BigInt(Math.floor(dropout * 2 ** 32));
  const draws = new Map<string, Words4>();
  return (b: number, h: number, r: number, j: number): boolean => {
    const name = `${j >> 2},${r},${b * H + h}`;
    let words = draws.get(name);
    if (!words) {
      words = philox([BigInt(j >> 2), BigInt(r), BigInt(b * H + h), 0n], key);
      draws.set(name, words);
    }
    return words[j & 3] >= threshold;
  };
}
