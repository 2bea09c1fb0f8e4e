/**
 * @file Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), the counter-based generator
 * of dropout: whether a pair is dropped depends only on its position and the seed, so forward, backward and every
 * backend agree. Copies in other languages say TWIN: src/call/dropout.ts.
 */

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;
const W0 = 0x9e3779b9;
const W1 = 0xbb67ae85;

/** High 32 bits of the 64-bit product of two unsigned 32-bit integers. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const low = (Math.imul(aHigh, bLow) >>> 0) + (Math.imul(aLow, bLow) >>> 16);
  const middle = (Math.imul(aLow, bHigh) >>> 0) + (low & 0xffff);
  return ((Math.imul(aHigh, bHigh) >>> 0) + (low >>> 16) + (middle >>> 16)) >>> 0;
}

/**
 * Ten rounds of Philox4x32.
 *
 * @param out receives the four unsigned 32-bit words.
 * @param c0..c3 the counter; @param k0, k1 the key; unsigned 32-bit integers.
 */
export function philox4x32(
  out: Uint32Array,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
): void {
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(M0, c0);
    const low0 = Math.imul(M0, c0);
    const high1 = mulHigh(M1, c2);
    const low1 = Math.imul(M1, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + W0) | 0;
    k1 = (k1 + W1) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** A dropout draw: which pairs are dropped, and the factor of the others. */
export interface Dropout {
  /** floor(dropout · 2^32): a pair is dropped if its random word is smaller. */
  threshold: number;
  /** 1 / (1 - dropout). */
  keepScale: number;
  /** Low and high 32 bits of the seed. */
  key0: number;
  key1: number;
}

/** Reads the generator's parameters from `dropout` in [0, 1) and a safe-integer seed. */
export function dropoutOf(dropout: number, seed: number): Dropout {
  return {
    threshold: Math.floor(dropout * 2 ** 32),
    keepScale: 1 / (1 - dropout),
    key0: seed >>> 0,
    key1: Math.floor(seed / 2 ** 32) >>> 0,
  };
}

const words = new Uint32Array(4);

/**
 * Writes the factors of one row's weights: 0 where the pair is dropped, 1 / (1 - dropout) where it is kept.
 *
 * @param out receives `columns` factors from index `at`.
 * @param batchHead b·H + h, of the query head.
 * @param row query row. @param column first key column. Column j uses word j & 3 of counter (j >>> 2, row, batchHead,
 *   0).
 */
export function keepFactors(
  out: Float32Array | Float64Array,
  at: number,
  d: Dropout,
  batchHead: number,
  row: number,
  column: number,
  columns: number,
): void {
  const end = column + columns;
  for (let group = column >>> 2; group * 4 < end; group++) {
    philox4x32(words, group, row, batchHead, 0, d.key0, d.key1);
    const first = Math.max(group * 4, column);
    const last = Math.min(group * 4 + 4, end);
    for (let j = first; j < last; j++) out[at + j - column] = words[j & 3] < d.threshold ? 0 : d.keepScale;
  }
}
