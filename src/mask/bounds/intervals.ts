/** @file Reads the bounds of a key column, in any form, as two intervals of masked query rows. */

/** Bounds per key column: none; LTS; LTS with LTE or UTE; or LTS, LTE, UTS and UTE. */
export type Vectors = 0 | 1 | 2 | 4;

/** The masked query rows of one key column: `[LTS, LTE) ∪ [UTS, UTE)`, in this order. */
export type Intervals = [LTS: number, LTE: number, UTS: number, UTE: number];

/** One interval of query rows: [start, end). */
export type Interval = [start: number, end: number];

/** The end of an interval without a stored end, and the start of one without a stored start: the limits of int32. */
export const MAX_BOUND = 2147483647;
export const MIN_BOUND = -2147483648;

/**
 * Row bounds on the host, with the sizes that are needed to read them. A `FlashMask` whose bounds are on the host is
 * one.
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

/** Which vectors of a form hold the start and the end of one interval; null: not stored. */
export interface StoredInterval {
  readonly start: number | null;
  readonly end: number | null;
}

/** The intervals of each form, by `vectors`: for causal masks, and for others. */
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
 * The four bounds of a column, in any form. Copies in other languages say TWIN: src/mask/bounds/intervals.ts.
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
 * @param out Filled and returned, so that hot loops allocate nothing.
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
