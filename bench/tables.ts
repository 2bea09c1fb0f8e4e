/** @file Markdown tables of benchmark records. */

/** A column: its title, and a row's cell. */
export type Column<Row> = [title: string, cell: (row: Row) => string];

/** The first column is left-aligned, the others are numbers. */
export function table<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const line = (cells: string[]): string => `| ${cells.join(' | ')} |`;
  const align = columns.map((_, i) => (i === 0 ? '---' : '---:'));
  const body = rows.map((row) => line(columns.map(([, cell]) => cell(row))));
  return [line(columns.map(([title]) => title)), line(align), ...body].join('\n');
}

/** Three digits or so. */
export const digits = (x: number): string => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));
/** Milliseconds, TFLOP/s and the like, or a dash where there is none. */
export const figure = (x?: number): string => (x === undefined ? '–' : digits(x));
export const times = (x: number): string => (Number.isFinite(x) ? `${digits(x)}×` : '–');
