/**
 * @file Tables of the suite `finetune`: both attentions side by side at each length, the longest row of each, and what
 * functions bring.
 */
import type {Task} from '../finetune/rows.js';
import {groupedBy, byAttention, type Attentions, type BenchRecord} from '../record.js';
import {exponent, percent, table, type Column, type Section} from './markdown.js';

const GIBIBYTE = 2 ** 30;

type Row = Attentions & {N: number};

/** One model in one kind of training on one backend. */
interface Run {
  title: string;
  training: string;
  rows: Row[];
}

const TRAININGS: Record<Task, string> = {
  sft: 'SFT, all weights',
  lora: 'SFT, LoRA',
  dpo: 'DPO, LoRA',
  rm: 'RM, LoRA',
};

export const rate = (x: number): string => x.toFixed(x < 1000 ? 1 : 0);
export const gibibytes = (bytes: number): string => (bytes / GIBIBYTE).toFixed(bytes < GIBIBYTE ? 3 : 1);
const ratio = (a?: number, b?: number): string => (a === undefined || b === undefined ? '' : `${(a / b).toFixed(2)}×`);
const speedup = (row?: Row): string => ratio(row?.flash?.tokensPerSecond, row?.dense?.tokensPerSecond);
const saving = (row?: Row): string => ratio(row?.dense?.peakBytes, row?.flash?.peakBytes);
const speed = (r?: BenchRecord): string =>
  r?.tokensPerSecond === undefined ? (r?.outcome ?? '–') : rate(r.tokensPerSecond);
const fraction = (x?: number): string => (x === undefined ? '' : percent(x));
const memory = (r?: BenchRecord): string => (r?.peakBytes === undefined ? '' : gibibytes(r.peakBytes));

/** The larger relative difference of loss and gradient norm. */
function differ({flash, dense}: Row): string {
  if (flash?.loss === undefined || dense?.loss === undefined) return '';
  const relative = (a: number, b: number): number => Math.abs(a - b) / Math.abs(b);
  return exponent(Math.max(relative(flash.loss, dense.loss), relative(flash.gradNorm!, dense.gradNorm!)));
}

const LENGTHS: readonly Column<Row & Run>[] = [
  ['training', ({training}) => training],
  ['N', ({N}) => String(N)],
  ['masked', ({flash, dense}) => fraction(flash?.masked ?? dense?.masked)],
  ['flash tok/s', ({flash}) => speed(flash)],
  ['dense tok/s', ({dense}) => speed(dense)],
  ['faster', speedup],
  ['flash GiB', ({flash}) => memory(flash)],
  ['dense GiB', ({dense}) => memory(dense)],
  ['less', saving],
  ['differ by', differ],
];

/**
 * The longest row that an attention trained. Its text says if no longer row was tried or if memory was not the reason
 * why a longer one failed.
 */
function lastOf(attention: 'flash' | 'dense', rows: readonly Row[]): {row: Row; text: string} | undefined {
  const tried = rows.filter((row) => row[attention] !== undefined);
  const last = tried.map((row) => row[attention]!.outcome === undefined).lastIndexOf(true);
  if (last < 0) return undefined;
  const limit = tried[last + 1]?.[attention]?.outcome === 'out of memory';
  return {row: tried[last], text: limit ? String(tried[last].N) : `at least ${tried[last].N}`};
}

/** The paper's figure: how far each attention gets, and the speed at the longest row that dense attention can train. */
const LONGEST: readonly Column<Run>[] = [
  ['model and training', ({title, training}) => `${title}: ${training}`],
  ['longest dense', ({rows}) => lastOf('dense', rows)?.text ?? '–'],
  ['dense fails at', ({rows}) => String(rows.find(({dense}) => dense?.outcome === 'out of memory')?.N ?? '–')],
  ['faster there', ({rows}) => speedup(lastOf('dense', rows)?.row)],
  ['less memory there', ({rows}) => saving(lastOf('dense', rows)?.row)],
  ['longest flash', ({rows}) => lastOf('flash', rows)?.text ?? '–'],
  ['longer', ({rows}) => ratio(lastOf('flash', rows)?.row.N, lastOf('dense', rows)?.row.N)],
];

/** Both attentions side by side, by length. */
const rowsOf = (records: readonly BenchRecord[]): Row[] =>
  [...new Set(records.map(({N}) => N))]
    .sort((a, b) => a - b)
    .map((N) => ({N, ...byAttention(records.filter((record) => record.N === N))}));

/** A length of one kind of training, in milliseconds a step. */
interface Steps {
  training: string;
  N: number;
  eager?: BenchRecord;
  flash?: BenchRecord;
  dense?: BenchRecord;
  torch?: BenchRecord;
}

/** Without the time that dense attention's mask takes. */
const milliseconds = (r?: BenchRecord): string =>
  r?.medianMs === undefined ? (r?.outcome ?? '–') : rate(r.medianMs - (r.maskMs ?? 0));

/** Steps as TensorFlow functions beside those operation by operation, and beside dense attention as functions. */
const FUNCTIONS: readonly Column<Steps>[] = [
  ['training', ({training}) => training],
  ['N', ({N}) => String(N)],
  ['operation by operation, ms', ({eager}) => milliseconds(eager)],
  ['functions, ms', ({flash}) => milliseconds(flash)],
  ['faster', ({eager, flash}) => ratio(eager?.medianMs, flash?.medianMs)],
  ['dense as functions, ms', ({dense}) => milliseconds(dense)],
  ['faster than dense', (row) => speedup(row)],
  ['GiB', ({flash}) => memory(flash)],
  ['dense GiB', ({dense}) => memory(dense)],
];

/** PyTorch's own steps beside them, where they were measured. */
const TORCH: readonly Column<Steps>[] = [
  ['PyTorch, ms', ({torch}) => milliseconds(torch)],
  ['faster than PyTorch', ({flash, torch}) => ratio(torch?.medianMs, flash?.medianMs)],
];

/** How steps differ from those without options, besides `--eager`. */
const variantOf = ({keepActivations, xla, dtype}: BenchRecord): string =>
  [keepActivations && 'activations kept', xla && 'XLA', dtype].filter((word) => word).join(', ');

const isTorch = ({backend}: BenchRecord): boolean => backend === 'torch';

/** Whether TensorFlow ran the steps as functions. */
const asFunctions = ({backend, eager}: BenchRecord): boolean => backend === 'tensorflow' && eager !== true;

/** Rows of the steps of one model on one machine. */
function stepsOf(all: readonly BenchRecord[]): Steps[] {
  const own = all.filter((record) => !isTorch(record));
  return groupedBy(own, (r) => [r.task, r.N, variantOf(r)].join(' ')).map(([, group]) => {
    const [{task, N, dtype}] = group;
    const find = (attention: string, functions: boolean): BenchRecord | undefined =>
      group.find((record) => record.attention === attention && asFunctions(record) === functions);
    return {
      training: [TRAININGS[task as Task], variantOf(group[0])].filter((word) => word).join(', '),
      N,
      eager: find('flash', false),
      flash: find('flash', true),
      dense: find('dense', true),
      torch: all.find((r) => isTorch(r) && r.task === task && r.N === N && r.dtype === dtype),
    };
  });
}

/** A table for each model and machine. */
function functionTables(records: readonly BenchRecord[]): string {
  const groups = groupedBy(records, ({model, device}) => `${String(model)}, ${device}`);
  const tableOf = (group: readonly BenchRecord[]): string =>
    table(group.some(isTorch) ? [...FUNCTIONS, ...TORCH] : FUNCTIONS, stepsOf(group));
  return groups.map(([title, group]) => `**${title}**\n\n${tableOf(group)}`).join('\n\n');
}

export function finetuneSections(records: readonly BenchRecord[]): Section[] {
  const all = records.filter(({suite}) => suite === 'finetune');
  const devices = new Set(all.filter(asFunctions).map(({device}) => device));
  const beside = all.filter((r) => (r.backend === 'tensorflow' || isTorch(r)) && devices.has(r.device));
  const own = all.filter((record) => !beside.includes(record) && !isTorch(record));
  const runs = groupedBy(own, ({backend, model, task}) => [backend, model, task].join(' ')).map(([, group]): Run => {
    const [{backend, model, task}] = group;
    return {title: `${String(model)}, \`${String(backend)}\``, training: TRAININGS[task as Task], rows: rowsOf(group)};
  });
  const lengths = groupedBy(runs, ({title}) => title).map(([title, group]) => {
    const rows = group.flatMap((run) => run.rows.map((row) => ({...run, ...row})));
    return `**${title}**\n\n${table(LENGTHS, rows)}`;
  });
  // Leave out runs without a flash measurement at dense's longest row. They ran out of time, so they say nothing.
  const compared = runs.filter(({rows}) => speedup(lastOf('dense', rows)?.row) !== '');
  return [
    {name: 'longest', title: 'Longest rows', text: table(LONGEST, compared)},
    {name: 'lengths', title: 'Training steps', text: lengths.join('\n\n')},
    {name: 'functions', title: 'Steps as functions', text: functionTables(beside)},
  ];
}
