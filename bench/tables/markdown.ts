/** @file Markdown tables of benchmark records, and the columns that several have. A terminal can show them too. */
import type {BenchRecord} from '../record.js';

/** A column: its title, and a row's cell. */
export type Column<Row> = [title: string, cell: (row: Row) => string];

/** A table with its title. */
export interface Section {
  /** Name in the marks around the table in a document. */
  name: string;
  title: string;
  text: string;
}

/** The first column is left-aligned, because the others are numbers. Empty without rows. */
export function table<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  if (rows.length === 0) return '';
  const line = (cells: string[]): string => `| ${cells.join(' | ')} |`;
  const align = columns.map((_, i) => (i === 0 ? '---' : '---:'));
  const body = rows.map((row) => line(columns.map(([, cell]) => cell(row))));
  return [line(columns.map(([title]) => title)), line(align), ...body].join('\n');
}

/** Rounds to about three digits. */
export const digits = (x: number): string => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));
/** Milliseconds, TFLOP/s and the like, or a dash where there is none. Software adapters reach only few TFLOP/s. */
export const figure = (x?: number): string => (x === undefined ? '–' : digits(x));
export const tera = (x?: number): string => (x !== undefined && x < 0.1 ? x.toPrecision(2) : figure(x));
export const times = (x = NaN): string => (Number.isFinite(x) ? `${digits(x)}×` : '–');
export const percent = (fraction = NaN): string => `${(100 * fraction).toFixed(1)}%`;
export const mebibytes = (bytes?: number): string => figure(bytes === undefined ? undefined : bytes / 2 ** 20);
export const exponent = (x = NaN): string => x.toExponential(1);
export const code = (text = ''): string => `\`${text}\``;

export const MASK: Column<BenchRecord> = ['mask', ({mask}) => code(mask)];
export const SIZES: Column<BenchRecord>[] = (['N', 'H', 'D'] as const).map((name) => [name, (r) => String(r[name])]);
export const MASKED: Column<BenchRecord> = ['masked', ({masked}) => percent(masked)];
export const PASSES: Column<BenchRecord>[] = [
  ['forward ms', (r) => figure(r.forwardMs)],
  ['TFLOP/s', (r) => tera(r.forwardTflops)],
  ['backward ms', (r) => figure(r.backwardMs)],
  ['TFLOP/s', (r) => tera(r.backwardTflops)],
];
export const PEAK: Column<BenchRecord> = ['peak MiB', ({peakBytes}) => mebibytes(peakBytes)];
export const DIFFERS: Column<BenchRecord> = ['differs by', ({difference}) => exponent(difference)];

/** Turns columns of records into columns of rows that have a record. */
export const columnsOf = <Row>(recordOf: (row: Row) => BenchRecord, ...columns: Column<BenchRecord>[]): Column<Row>[] =>
  columns.map(([title, cell]) => [title, (row) => cell(recordOf(row))]);
