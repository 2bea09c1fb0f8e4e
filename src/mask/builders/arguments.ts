/** @file Reads and checks the arguments of mask builders: lengths, for one row or for each row of a batch. */
import {checkInteger, checkOptions, describe, fail} from '../../call/errors.js';
import {MAX_NUMBERS} from './limits.js';
import {isArray, isTensor} from '../../call/values.js';

/** Numbers of one row. */
export type Numbers = ArrayLike<number>;
/** Numbers of one row, or of each row of a batch. */
export type PerBatch = Numbers | readonly Numbers[];

/** Options of the builders of packed rows. */
export interface PackedOptions {
  /** Tokens of a row; the lengths must sum to it. */
  total?: number;
  /** Pads rows to this many tokens. Padding sees nothing, and nothing sees it. */
  padTo?: number;
}

/** A document (or block, or answer group) of a packed row: tokens [start, end). */
export interface Span {
  start: number;
  end: number;
}

/** A row of a batch, packed with documents; the tokens after the last one are padding. */
export interface PackedRow {
  spans: Span[];
  /** Tokens without the padding. */
  used: number;
}

/** Rows packed with documents. */
export interface Packed {
  rows: PackedRow[];
  /** Tokens of each row. */
  total: number;
}

/** Turns an argument, given for one row or for each row of a batch, into rows. Their elements are not checked yet. */
function rowsOf(who: string, what: string, values: unknown): unknown[][] {
  const remedy = `Pass ${what} as an array of numbers, or one such array for each row of the batch.`;
  const list = listOf(who, what, values, remedy);
  const nested = list.filter(isArray).length;
  if (nested !== 0 && nested !== list.length) {
    fail(who, `${what} must be all numbers or all arrays`, describe(values), remedy);
  }
  return nested ? list.map((row, b) => listOf(who, `${what}[${b}]`, row, remedy, 0)) : [list];
}

/** The elements of an array with at least `least` elements. */
export function listOf(who: string, what: string, values: unknown, remedy: string, least = 1): unknown[] {
  if (!isArray(values)) {
    const read = isTensor(values) ? 'Read it first: `await tensor.array()`.' : remedy;
    fail(who, `${what} must be an array`, describe(values), read);
  }
  if (values.length < least) fail(who, `${what} must not be empty`, '[]', remedy);
  if (values.length > MAX_NUMBERS) {
    fail(who, `${what} must have at most ${MAX_NUMBERS} elements`, `${values.length}`, remedy);
  }
  return Array.from(values);
}

/** A whole number of either sign for each token, of one row or of each row of a batch, all rows equally long. */
export function readPerToken(
  who: string,
  what: string,
  values: unknown,
  remedies: {length: string; number: string},
): number[][] {
  const rows = rowsOf(who, what, values);
  rows.forEach((row, b) => {
    if (row.length !== rows[0].length || row.length === 0) {
      fail(who, `${what} must be equally long in every row`, `${row.length} in row ${b}`, remedies.length);
    }
    row.forEach((value, i) => {
      if (Number.isInteger(value)) return;
      fail(who, `${what} must be whole numbers`, `${describe(value)} at ${i}`, remedies.number);
    });
  });
  return rows as number[][];
}

/** Lengths of at least `least`, of one row or of each row of a batch. */
export function readLengths(who: string, what: string, values: unknown, least = 0): number[][] {
  return rowsOf(who, what, values).map((row, b, {length}) => {
    const at = (i: number): string => (length > 1 ? `${what}[${b}][${i}]` : `${what}[${i}]`);
    if (row.length === 0) fail(who, `${what} of every row must not be empty`, `[] in row ${b}`, 'Give it a length.');
    return row.map((value, i) => checkInteger(who, at(i), value, least));
  });
}

/** Rows packed with documents of these lengths. */
export function readPacked(who: string, values: unknown, options?: PackedOptions | null): Packed {
  return pack(who, 'lengths', readLengths(who, 'lengths', values), options);
}

/** Lays lengths one after another, and checks or fills the rows' sums. */
export function pack(who: string, what: string, lengths: number[][], options?: PackedOptions | null): Packed {
  const {total, padTo} = checkOptions(who, options, ['total', 'padTo']);
  if (total !== undefined) checkInteger(who, 'total', total, 1);
  if (padTo !== undefined) checkInteger(who, 'padTo', padTo, 1);
  const sums = lengths.map(sum);
  const wanted = padTo ?? total ?? sums[0];
  sums.forEach((used, b) => {
    const where = lengths.length > 1 ? ` in row ${b}` : '';
    const got = `${used}${where}`;
    if (padTo !== undefined) {
      if (used > padTo) fail(who, `${what} must sum to at most padTo = ${padTo}`, got, 'Raise padTo, or pack fewer.');
    } else if (used !== wanted) {
      const rule = total === undefined ? `${wanted} in every row, as in row 0` : `total = ${total}`;
      fail(who, `${what} must sum to ${rule}`, got, 'Fix the lengths, or fill rows with padding by padTo.');
    }
  });
  if (wanted === 0) fail(who, `${what} must sum to at least 1`, '0', 'A mask has at least one token.');
  return {rows: lengths.map(layOut), total: wanted};
}

function layOut(lengths: number[]): PackedRow {
  let used = 0;
  const spans = lengths.map((length) => ({start: used, end: (used += length)}));
  return {spans, used};
}

export function sum(values: number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
