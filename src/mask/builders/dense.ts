/** @file Masks as matrices: a mask's dense form, and the smallest form of row bounds that expresses a dense mask. */
import {fail} from '../../call/errors.js';
import type {HostBounds, Interval, Vectors} from '../bounds/intervals.js';
import {visibleRows} from '../bounds/visible.js';

/** One batch and head of a mask as row-major `[queryLength, keyLength]`, 1 = visible. */
export function toDense(mask: HostBounds, batch: number, head: number): Uint8Array {
  const {queryLength, keyLength} = mask;
  const dense = new Uint8Array(queryLength * keyLength);
  for (let j = 0; j < keyLength; j++) {
    for (const [start, end] of visibleRows(mask, batch, head, j)) {
      for (let r = start; r < end; r++) dense[r * keyLength + j] = 1;
    }
  }
  return dense;
}

/** Dense masks `[batch, heads, queryLength, keyLength]`, row-major, 1 = visible. */
export interface DenseMasks {
  data: Uint8Array;
  batch: number;
  heads: number;
  queryLength: number;
  keyLength: number;
}

/** Bounds in one of the forms of a `FlashMask`. */
export interface FittedBounds {
  causal: boolean;
  vectors: Vectors;
  bounds: Int32Array;
}

/** Rows of a column hidden by the mask. */
interface Column {
  /** Masked ranges, in order and not adjacent. */
  masked: Interval[];
  /** End of the causal triangle: the rows before this one are in it. */
  triangle: number;
}

/** A form that bounds can take: its vectors for a column, or null where it cannot express the column. */
interface Form {
  causal: boolean;
  vectors: Vectors;
  fit: (column: Column, rows: number) => number[] | null;
}

/** From small to large. Fully masked columns get every interval, so that they do not weaken their tile's bounds. */
const forms: readonly Form[] = [
  {causal: false, vectors: 0, fit: ({masked}) => (masked.length === 0 ? [] : null)},
  {causal: true, vectors: 0, fit: (column) => (belowTriangle(column)?.length === 0 ? [] : null)},
  {causal: true, vectors: 1, fit: fitStart},
  {causal: true, vectors: 2, fit: fitInterval},
  {causal: false, vectors: 2, fit: fitOutside},
  {causal: false, vectors: 4, fit: fitTwoIntervals},
];

/**
 * The smallest form that expresses the masks.
 *
 * @throws Error naming the first column that two intervals cannot express, with its masked rows.
 */
export function fitDense(who: string, masks: DenseMasks): FittedBounds {
  const {batch, heads, queryLength, keyLength} = masks;
  const columns: Column[] = [];
  for (let row = 0; row < batch * heads; row++) {
    for (let j = 0; j < keyLength; j++) columns.push(readColumn(masks, row, j));
  }
  for (const {causal, vectors, fit} of forms) {
    const bounds = new Int32Array(columns.length * vectors);
    const fits = columns.every((column, i) => {
      const fitted = fit(column, queryLength);
      if (fitted) bounds.set(fitted, i * vectors);
      return fitted !== null;
    });
    if (fits) return {causal, vectors, bounds};
  }
  const index = columns.findIndex((column) => fitTwoIntervals(column, queryLength) === null);
  return failColumn(who, masks, index, columns[index]);
}

function readColumn({data, queryLength, keyLength}: DenseMasks, row: number, j: number): Column {
  const masked: Interval[] = [];
  for (let r = 0; r < queryLength; r++) {
    if (data[(row * queryLength + r) * keyLength + j] !== 0) continue;
    const last = masked[masked.length - 1];
    if (last?.[1] === r) last[1]++;
    else masked.push([r, r + 1]);
  }
  return {masked, triangle: Math.min(queryLength, Math.max(0, j - (keyLength - queryLength)))};
}

/** The masked ranges below the causal triangle; null if a pair of the triangle is visible. */
function belowTriangle({masked, triangle}: Column): Interval[] | null {
  if (triangle === 0) return masked;
  const [first, ...rest] = masked;
  if (!first || first[0] > 0 || first[1] < triangle) return null;
  // An interval that continues the triangle starts at row 0: the earliest start proves the most tiles masked.
  return first[1] > triangle ? masked : rest;
}

function fitStart(column: Column, rows: number): number[] | null {
  const masked = belowTriangle(column);
  if (!masked || masked.length > 1) return null;
  if (isWhole(column.masked, rows)) return [0];
  if (masked.length === 0) return [rows];
  return masked[0][1] === rows ? [masked[0][0]] : null;
}

function fitInterval(column: Column, rows: number): number[] | null {
  const masked = belowTriangle(column);
  if (!masked || masked.length > 1) return null;
  if (isWhole(column.masked, rows)) return [0, rows];
  return masked.length === 0 ? [rows, rows] : [...masked[0]];
}

function fitOutside({masked}: Column, rows: number): number[] | null {
  if (isWhole(masked, rows)) return [0, rows];
  const upper = masked.find(([start]) => start === 0);
  const lower = masked.find(([, end]) => end === rows);
  const used = (upper ? 1 : 0) + (lower ? 1 : 0);
  return used === masked.length ? [lower?.[0] ?? rows, upper?.[1] ?? 0] : null;
}

function fitTwoIntervals({masked, triangle}: Column, rows: number): number[] | null {
  if (masked.length > 2) return null;
  if (isWhole(masked, rows)) return [0, rows, 0, rows];
  if (masked.length === 2) return [...masked[1], ...masked[0]];
  if (masked.length === 0) return [rows, rows, 0, 0];
  const [start, end] = masked[0];
  return end === rows || (start > 0 && start >= triangle) ? [start, end, 0, 0] : [rows, rows, start, end];
}

function isWhole(masked: Interval[], rows: number): boolean {
  return masked.length === 1 && masked[0][0] === 0 && masked[0][1] === rows;
}

function failColumn(who: string, {batch, heads, keyLength}: DenseMasks, index: number, {masked}: Column): never {
  const row = Math.floor(index / keyLength);
  const where = batch * heads > 1 ? ` of batch ${Math.floor(row / heads)}, head ${row % heads}` : '';
  const shown = masked.slice(0, 4).map(([start, end]) => `[${start}, ${end})`);
  const got = `${masked.length} in column ${index % keyLength}${where}: ${shown.join(', ')}${masked.length > 4 ? ', ...' : ''}`;
  const remedy =
    'Order the tokens so that the rows a key hides adjoin, or attend in two calls and join them by their log-sum-exp.';
  fail(who, 'the masked rows of a key column must be at most two intervals', got, remedy);
}
