/** @file What the bounds of a key column stand for: two intervals of masked query rows, whatever the form of the bounds. */

/** Bounds per key column: none, LTS, two of them, or LTS, LTE, UTS, UTE. */
export type Vectors = 0 | 1 | 2 | 4;

/** The masked query rows of one key column: `[LTS, LTE) ∪ [UTS, UTE)`, in this order. */
export type Intervals = [LTS: number, LTE: number, UTS: number, UTE: number];

/** One interval of query rows: [start, end). */
export type Interval = [start: number, end: number];

/** The end of an interval that has none, and the start of one that has none: the ends of int32. */
export const MAX_BOUND = 2147483647;
export const MIN_BOUND = -2147483648;

/**
 * Row bounds on the host, with the sizes that give them their meaning. A `FlashMask` that is on the host is one.
 *
 * @internal
 */
export interface HostBounds {
  /** `[batch, heads, keyLength, vectors]`, row-major. */
  readonly bounds: Int32Array | null;
  readonly batch: number;
  readonly heads: number;
  readonly queryLength: number;
  readonly keyLength: number;
  readonly vectors: Vectors;
  readonly causal: boolean;
}

/** Where a form of bounds has the start and the end of one interval among its vectors; null: the interval has none. */
export interface StoredInterval {
  readonly start: number | null;
  readonly end: number | null;
}

/** The intervals of each form, by `vectors`: of causal masks, and of the others. */
const CAUSAL_FORMS: Partial<Record<number, readonly StoredInterval[]>> = {
  0: [],
  1: [{start: 0, end: null}],
  2: [{start: 0, end: 1}],
};
const OTHER_FORMS: Partial<Record<number, readonly StoredInterval[]>> = {
  0: [],
  2: [
    {start: 0, end: null},
    {start: null, end: 1},
  ],
  4: [
    {start: 0, end: 1},
    {start: 2, end: 3},
  ],
};

/** The intervals of a form that a `FlashMask` can have: at most two, the lower one first. */
export function formOf(vectors: number, causal: boolean): readonly StoredInterval[] {
  return (causal ? CAUSAL_FORMS : OTHER_FORMS)[vectors]!;
}

/**
 * The four bounds of a column, whatever its form. Copies in other languages say TWIN: src/mask/bounds/intervals.ts.
 *
 * | causal | vectors | result                  |
 * |--------|---------|-------------------------|
 * | any    | 0       | [0, 0, 0, 0]            |
 * | true   | 1       | [LTS, MAX, 0, 0]        |
 * | true   | 2       | [LTS, LTE, 0, 0]        |
 * | false  | 2       | [LTS, MAX, MIN, UTE]    |
 * | false  | 4       | [LTS, LTE, UTS, UTE]    |
 *
 * @param bounds Row-major `[..., vectors]`.
 * @param index The column, counted over batches and heads: `(batch * heads + head) * keyLength + j`.
 * @param out Filled and returned, to spare hot loops the allocation.
 */
export function intervalsAt(
  bounds: ArrayLike<number> | null,
  vectors: number,
  causal: boolean,
  index: number,
  out: Intervals = [0, 0, 0, 0],
): Intervals {
  out.fill(0);
  const form = formOf(vectors, causal);
  for (let i = 0; i < form.length; i++) {
    const {start, end} = form[i];
    out[2 * i] = start === null ? MIN_BOUND : bounds![index * vectors + start];
    out[2 * i + 1] = end === null ? MAX_BOUND : bounds![index * vectors + end];
  }
  return out;
}
