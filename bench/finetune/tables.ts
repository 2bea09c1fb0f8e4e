/** @file The fine-tuning benchmark in a terminal: a line for each measurement, and tables of both attentions side by side. */
import {type Column, table as markdownTable} from '../tables.js';
import type {StepRecord} from './records.js';
import type {Task} from './rows.js';

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
  ['faster', 8, (pair) => speedup(pair)],
  ['flash GiB', 10, ({flash}) => figure(flash, ({peakBytes}) => gibibytes(peakBytes!), '')],
  ['dense GiB', 10, ({dense}) => figure(dense, ({peakBytes}) => gibibytes(peakBytes!), '')],
  ['less', 8, (pair) => saving(pair)],
  ['differ by', 10, ({flash, dense}) => differ(flash, dense)],
];

/** Tables of all lengths, one for each model and task, and the longest of each attention below. */
export function tables(records: readonly StepRecord[]): string {
  const backends = new Set(records.map(({backend}) => backend));
  const nameOf = ({model, task, backend}: StepRecord): string =>
    backends.size > 1 ? `${model} ${task}, ${backend}` : `${model} ${task}`;
  return groupsBy(nameOf, records)
    .map(([name, group]) => table(name, pairsOf(group)))
    .join('\n\n');
}

const TRAININGS: Record<Task, string> = {
  sft: 'SFT, all weights',
  lora: 'SFT, LoRA',
  dpo: 'DPO, LoRA',
  rm: 'RM, LoRA',
};

/** One model in one kind of training on one backend. */
interface Run {
  title: string;
  training: string;
  rows: Pair[];
}

/** What the longest rows say: the dense one, what flash needs for it, and flash's own. */
const LONGEST: readonly Column<Run>[] = [
  ['model and training', ({title, training}) => `${title}: ${training}`],
  ['longest dense', ({rows}) => lastOf('dense', rows)?.text ?? '–'],
  ['dense fails at', ({rows}) => String(rows.find(({dense}) => dense?.outcome === 'out of memory')?.N ?? '–')],
  ['faster there', ({rows}) => timesSign(speedup(lastOf('dense', rows)?.row))],
  ['less memory there', ({rows}) => timesSign(saving(lastOf('dense', rows)?.row))],
  ['longest flash', ({rows}) => lastOf('flash', rows)?.text ?? '–'],
  ['longer', ({rows}) => timesSign(ratio(lastOf('flash', rows)?.row.N, lastOf('dense', rows)?.row.N))],
];

/** As Markdown: one table of the longest rows, and one of all lengths for each model and backend. */
export function markdownTables(records: readonly StepRecord[]): {longest: string; lengths: string} {
  const runs = groupsBy(({backend, model, task}) => `${backend} ${model} ${task}`, records).map(([, group]): Run => {
    const [{backend, model, task}] = group;
    return {title: `${model}, \`${backend}\``, training: TRAININGS[task], rows: pairsOf(group)};
  });
  const columns = COLUMNS.map(([title, , cell]): Column<Pair & Run> => [title, (row) => timesSign(cell(row))]);
  const lengths = groupsBy(({title}) => title, runs).map(([title, group]) => {
    const rows = group.flatMap((run) => run.rows.map((pair) => ({...run, ...pair})));
    return `**${title}**\n\n${markdownTable([['training', ({training}) => training], ...columns], rows)}`;
  });
  // Where flash was not measured at dense's longest row, the time was up before: that says nothing.
  const compared = runs.filter(({rows}) => speedup(lastOf('dense', rows)?.row) !== '');
  return {longest: markdownTable(LONGEST, compared), lengths: lengths.join('\n\n')};
}

/** In order of their first item. */
function groupsBy<T>(nameOf: (item: T) => string, items: readonly T[]): [name: string, group: T[]][] {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const name = nameOf(item);
    groups.set(name, [...(groups.get(name) ?? []), item]);
  }
  return [...groups];
}

/** Both attentions side by side, by length. */
function pairsOf(records: readonly StepRecord[]): Pair[] {
  const lengths = [...new Set(records.map(({N}) => N))].sort((a, b) => a - b);
  return lengths.map((N): Pair => {
    const of = (attention: StepRecord['attention']): StepRecord | undefined =>
      records.find((record) => record.N === N && record.attention === attention);
    return {N, flash: of('flash'), dense: of('dense')};
  });
}

function table(name: string, rows: readonly Pair[]): string {
  const header = COLUMNS.map(([title, width]) => title.padStart(width)).join(' ');
  const lines = rows.map((row) => COLUMNS.map(([, width, cell]) => cell(row).padStart(width)).join(' '));
  return [name, header, ...lines, ...summary(rows)].join('\n');
}

/** What the paper's figure shows: how far each attention gets, and the speed at the longest row that dense attention can train. */
function summary(rows: readonly Pair[]): string[] {
  const [flash, dense] = [lastOf('flash', rows), lastOf('dense', rows)];
  if (flash === null || dense === null) return [];
  const context = `longest trained: flash ${flash.text}, dense ${dense.text}: ${ratio(flash.row.N, dense.row.N)}`;
  const speed = speedup(dense.row);
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

const speedup = (pair?: Pair): string => ratio(pair?.flash?.tokensPerSecond, pair?.dense?.tokensPerSecond);
const saving = (pair?: Pair): string => ratio(pair?.dense?.peakBytes, pair?.flash?.peakBytes);
const timesSign = (text: string): string => text.replace(/(\d)x$/, '$1×');
const ratio = (a?: number, b?: number): string => (a === undefined || b === undefined ? '' : `${(a / b).toFixed(2)}x`);
const percent = (fraction?: number): string => (fraction === undefined ? '' : `${(100 * fraction).toFixed(1)}%`);
const rate = (value: number): string => value.toFixed(value < 1000 ? 1 : 0);
const gibibytes = (bytes: number): string => (bytes / GIBIBYTE).toFixed(bytes < GIBIBYTE ? 3 : 1);
