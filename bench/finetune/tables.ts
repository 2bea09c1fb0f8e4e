/** @file The fine-tuning benchmark in a terminal: a line for each measurement, and tables of both attentions side by side. */
import type {StepRecord} from './records.js';

const GIBIBYTE = 2 ** 30;

/** What a measurement found, without its subject. */
export function describeRecord(record: StepRecord): string {
  const {outcome, reason, tokensPerSecond, peakBytes, heldBytes, loss, seconds} = record;
  const took = `[took ${seconds.toFixed(1)} s]`;
  if (outcome !== 'done') return `${outcome} (${reason}) ${took}`;
  const memory = `${gibibytes(peakBytes!)} GiB (${gibibytes(heldBytes!)} before the step)`;
  return `${rate(tokensPerSecond!)} tokens/s, ${memory}, loss ${loss!.toFixed(4)} ${took}`;
}

type Pair = Partial<Record<StepRecord['attention'], StepRecord>> & {N: number};

const COLUMNS: readonly [title: string, width: number, cell: (pair: Pair) => string][] = [
  ['N', 8, ({N}) => String(N)],
  ['masked', 7, (pair) => percent(pair.flash?.masked ?? pair.dense?.masked)],
  ['flash tok/s', 13, ({flash}) => figure(flash, ({tokensPerSecond}) => rate(tokensPerSecond!))],
  ['dense tok/s', 13, ({dense}) => figure(dense, ({tokensPerSecond}) => rate(tokensPerSecond!))],
  ['faster', 8, (pair) => ratio(pair.flash?.tokensPerSecond, pair.dense?.tokensPerSecond)],
  ['flash GiB', 10, ({flash}) => figure(flash, ({peakBytes}) => gibibytes(peakBytes!), '')],
  ['dense GiB', 10, ({dense}) => figure(dense, ({peakBytes}) => gibibytes(peakBytes!), '')],
  ['less', 8, (pair) => ratio(pair.dense?.peakBytes, pair.flash?.peakBytes)],
  ['differ by', 10, ({flash, dense}) => differ(flash, dense)],
];

/** Tables of all lengths, one for each model and task, and the longest of each attention below. */
export function tables(records: readonly StepRecord[]): string {
  const groups = new Map<string, StepRecord[]>();
  for (const record of records) {
    const name = `${record.model} ${record.task}`;
    groups.set(name, [...(groups.get(name) ?? []), record]);
  }
  return [...groups].map(([name, group]) => table(name, group)).join('\n\n');
}

function table(name: string, records: readonly StepRecord[]): string {
  const lengths = [...new Set(records.map(({N}) => N))].sort((a, b) => a - b);
  const rows = lengths.map((N): Pair => {
    const of = (attention: StepRecord['attention']): StepRecord | undefined =>
      records.find((record) => record.N === N && record.attention === attention);
    return {N, flash: of('flash'), dense: of('dense')};
  });
  const header = COLUMNS.map(([title, width]) => title.padStart(width)).join(' ');
  const lines = rows.map((row) => COLUMNS.map(([, width, cell]) => cell(row).padStart(width)).join(' '));
  return [name, header, ...lines, ...summary(rows)].join('\n');
}

/** What the paper's figure shows: how far each attention gets, and the speed at the longest row that dense attention can train. */
function summary(rows: readonly Pair[]): string[] {
  const [flash, dense] = [lastOf('flash', rows), lastOf('dense', rows)];
  if (flash === null || dense === null) return [];
  const context = `longest trained: flash ${flash.text}, dense ${dense.text}: ${ratio(flash.row.N, dense.row.N)}`;
  const speed = ratio(dense.row.flash?.tokensPerSecond, dense.row.dense?.tokensPerSecond);
  return [`${context}; speed at the longest of dense: ${speed === '' ? 'not measured' : speed}`];
}

/** The longest row that an attention trained, which says so where a longer one was not tried or ended otherwise than by memory. */
function lastOf(attention: StepRecord['attention'], rows: readonly Pair[]): {row: Pair; text: string} | null {
  const tried = rows.filter((row) => row[attention] !== undefined);
  const last = tried.map((row) => row[attention]!.outcome === 'done').lastIndexOf(true);
  if (last < 0) return null;
  const limit = tried[last + 1]?.[attention]?.outcome === 'out of memory';
  return {row: tried[last], text: limit ? String(tried[last].N) : `at least ${tried[last].N}`};
}

/** A figure of a record, or how it ended. */
function figure(
  record: StepRecord | undefined,
  cell: (record: StepRecord) => string,
  otherwise: string = record?.outcome ?? '–',
): string {
  return record?.outcome === 'done' ? cell(record) : otherwise;
}

/** The larger relative difference of loss and gradient norm. */
function differ(flash?: StepRecord, dense?: StepRecord): string {
  if (flash?.outcome !== 'done' || dense?.outcome !== 'done') return '';
  const relative = (a: number, b: number): number => Math.abs(a - b) / Math.abs(b);
  return Math.max(relative(flash.loss!, dense.loss!), relative(flash.gradNorm!, dense.gradNorm!)).toExponential(1);
}

const ratio = (a?: number, b?: number): string => (a === undefined || b === undefined ? '' : `${(a / b).toFixed(2)}x`);
const percent = (fraction?: number): string => (fraction === undefined ? '' : `${(100 * fraction).toFixed(1)}%`);
const rate = (value: number): string => value.toFixed(value < 1000 ? 1 : 0);
const gibibytes = (bytes: number): string => (bytes / GIBIBYTE).toFixed(bytes < GIBIBYTE ? 3 : 1);
