/** @file The values of the playground's form: texts with lists of numbers, numbers and switches. */

/** By the control's key. Texts hold lists as the visitor wrote them. */
export type Values = Record<string, string | number | boolean>;

/** One field of the form. */
export interface Control {
  key: string;
  label: string;
  kind: 'list' | 'number' | 'flag' | 'matrix';
  /** Said below the field. */
  hint?: string;
  /** Of a number; default 0. */
  min?: number;
  /** Whether it grows with the length of the row. */
  scales?: boolean;
}

export const numberOf = (values: Values, key: string): number => Number(values[key]);

/** The lists of numbers in a text, one a line. Words become NaN, which the builder refuses by its own words. */
export function rowsOf(text: string): number[][] {
  const lines = text.split('\n').map((line) => line.match(/[^\s,;[\]()]+/g) ?? []);
  return lines.filter((line) => line.length > 0).map((line) => line.map(Number));
}

export const textOf = (rows: readonly (readonly number[])[]): string => rows.map((row) => row.join(', ')).join('\n');

export const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);

/** Parts of the same proportions that add up to `total`, each at least 1. */
export function rescaled(parts: readonly number[], total: number): number[] {
  const whole = sum(parts);
  let before = 0;
  let used = 0;
  return parts.map((part, i) => {
    before += part;
    const last = parts.length - 1 - i;
    const end = last === 0 ? total : Math.min(total - last, Math.max(used + 1, Math.round((before / whole) * total)));
    const length = end - used;
    used = end;
    return length;
  });
}

/** Lists of numbers of the same proportions for rows of another length. Lists of lines share one row if `joined`. */
export function rescaledText(text: string, from: number, to: number, joined: boolean): string {
  const rows = rowsOf(text);
  if (!joined) return textOf(rows.map((row) => (sum(row) === from ? rescaled(row, to) : scaled(row, to / from))));
  const all = rescaled(rows.flat(), to);
  let at = 0;
  return textOf(rows.map((row) => all.slice(at, (at += row.length))));
}

const scaled = (numbers: readonly number[], factor: number): number[] => numbers.map((x) => Math.round(x * factor));

/** Of a text of lengths: the ends of all of them, in the first row. */
export function bordersOf(lengths: readonly number[]): number[] {
  let end = 0;
  return lengths.map((length) => (end += length));
}
