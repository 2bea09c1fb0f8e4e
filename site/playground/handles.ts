/** @file What can be dragged in the picture of a mask: borders, windows, prefixes. */
import {type Values, bordersOf, numberOf, rowsOf, sum, textOf} from './values.js';

/** A number that is dragged in the picture. Positions are tokens: of the key, and of the query. */
export interface Handle {
  label: string;
  value: number;
  min: number;
  max: number;
  at: readonly [x: number, y: number];
  /** The number that a position of the pointer means. */
  read: (x: number, y: number) => number;
  /** The values of the form that change with it. */
  set: (value: number) => Values;
}

const onDiagonal = (x: number, y: number): number => (x + y) / 2;

/** Borders between neighbours of the parts of a row: what one loses the other gains. */
export function partHandles(values: Values, key: string, what: string): Handle[] {
  const rows = rowsOf(String(values[key]));
  // Lines of `groups` share a row; otherwise the first row of the batch is drawn.
  const parts = key === 'groups' ? rows.flat() : (rows[0] ?? []);
  const borders = bordersOf(parts);
  return borders.slice(0, -1).map((border, i) => ({
    label: `End of ${what} ${i + 1}`,
    value: border,
    min: border - parts[i] + 1,
    max: borders[i + 1] - 1,
    at: [border, border],
    read: onDiagonal,
    set(value) {
      const moved = parts.map((part, j) =>
        j === i ? part + value - border : j === i + 1 ? part - value + border : part,
      );
      return {[key]: textOf(regrouped(moved, key === 'groups' ? rows : [parts, ...rows.slice(1)]))};
    },
  }));
}

/** New numbers in place of the first ones of all rows. */
function regrouped(numbers: readonly number[], rows: readonly (readonly number[])[]): number[][] {
  let at = 0;
  return rows.map((row) => row.map((old) => numbers[at++] ?? old));
}

/** Prefixes of packed documents, in the first row. */
export function prefixHandles(values: Values): Handle[] {
  const lengths = rowsOf(String(values.lengths))[0] ?? [];
  const [prefixes = [], ...others] = rowsOf(String(values.prefixes));
  const starts = bordersOf(lengths).map((end, i) => end - lengths[i]);
  return prefixes.slice(0, lengths.length).map((prefix, i) => ({
    label: `Prefix of document ${i + 1}`,
    value: prefix,
    min: 0,
    max: lengths[i],
    at: [starts[i] + prefix, starts[i] + prefix / 2],
    read: (x) => x - starts[i],
    set: (value) => ({prefixes: textOf([prefixes.map((old, j) => (j === i ? value : old)), ...others])}),
  }));
}

/** Both ends of dropped spans. */
export function spanHandles(values: Values, N: number): Handle[] {
  const spans = rowsOf(String(values.spans));
  const ends = spans.flat();
  return ends.map((end, i) => ({
    label: `${i % 2 === 0 ? 'Start' : 'End'} of span ${(i >> 1) + 1}`,
    value: end,
    min: i === 0 ? 0 : ends[i - 1] + (i % 2),
    max: i === ends.length - 1 ? N : ends[i + 1] - ((i + 1) % 2),
    at: [end, end],
    read: onDiagonal,
    set: (value) => ({
      spans: textOf(
        regrouped(
          ends.map((old, j) => (j === i ? value : old)),
          spans,
        ),
      ),
    }),
  }));
}

/** The border of a band around the diagonal: below it (sign 1) or above it (sign -1). */
export function edge(
  values: Values,
  key: string,
  label: string,
  {min, max, sign, N}: {min: number; max: number; sign: 1 | -1; N: number},
): Handle {
  const value = numberOf(values, key);
  const reach = Math.min(value, N);
  return {
    label,
    value,
    min,
    max,
    at: [(N - sign * reach) / 2, (N + sign * reach) / 2],
    read: (x, y) => sign * (y - x),
    set: (moved) => ({[key]: moved}),
  };
}

/** One more part of a row, or one less; the row stays as long as it is. */
export function changeParts(text: string, change: 1 | -1): string {
  const [parts = [], ...others] = rowsOf(text);
  if (change === -1) {
    if (parts.length < 2) return text;
    const [a, b] = parts.slice(-2);
    return textOf([[...parts.slice(0, -2), a + b], ...others]);
  }
  const longest = parts.indexOf(Math.max(...parts));
  if (sum(parts) <= parts.length || parts.length === 0) return text;
  const half = parts[longest] >> 1;
  return textOf([[...parts.slice(0, longest), parts[longest] - half, half, ...parts.slice(longest + 1)], ...others]);
}
