/** @file Tables of the suite `distributed`: steps on several GPUs beside those on one. */
import {groupedBy, type BenchRecord} from '../record.js';
import {code, digits, percent, table, times, type Column, type Section} from './markdown.js';
import {gibibytes, rate} from './finetune.js';

/** Steps on several ranks, and on one. */
interface Row {
  one?: BenchRecord;
  several: BenchRecord;
}

const milliseconds = (r?: BenchRecord): string => (r?.medianMs === undefined ? (r?.outcome ?? '–') : rate(r.medianMs));
const perSecond = (r?: BenchRecord): string => (r?.tokensPerSecond === undefined ? '–' : rate(r.tokensPerSecond));
const memory = (r?: BenchRecord): string => (r?.peakBytes === undefined ? '–' : gibibytes(r.peakBytes));
const ratio = (a?: number, b?: number): string => times(a === undefined || b === undefined ? undefined : a / b);

const modelOf = ({model, task}: BenchRecord): string => `${String(model)}, ${task === 'lora' ? 'LoRA' : 'all weights'}`;
const howOf = ({eager, xla, dtype}: BenchRecord): string =>
  [eager ? 'operation by operation' : 'functions', xla && 'XLA', dtype ?? 'float32'].filter(Boolean).join(', ');

/** What of a step is neither the slowest rank's own work nor its own waiting. */
const transfers = ({medianMs, quietMs}: BenchRecord): string =>
  quietMs === undefined ? '–' : digits(Math.max(0, medianMs! - quietMs));

const SUBJECT: Column<Row>[] = [
  ['model and training', ({several}) => modelOf(several)],
  ['steps as', ({several}) => howOf(several)],
];

const STEPS: Column<Row>[] = [
  ['GPUs', ({several}) => String(several.ranks)],
  ['one GPU, ms', ({one}) => milliseconds(one)],
  ['several, ms', ({several}) => milliseconds(several)],
];

/** What bounds a step. */
const TIMELINE: Column<Row>[] = [
  ['host, ms', ({several}) => (several.hostMs === undefined ? '–' : digits(several.hostMs))],
  ['own work of each, ms', ({several}) => several.ownMs?.map(digits).join(' / ') ?? '–'],
  ['transfers and waits, ms', ({several}) => transfers(several)],
  ['GiB on one', ({one}) => memory(one)],
  ['GiB on each', ({several}) => memory(several)],
];

const faster: Column<Row> = ['tokens/s', ({one, several}) => ratio(several.tokensPerSecond, one?.tokensPerSecond)];

const DATA: Column<Row>[] = [
  ...SUBJECT,
  ['N', ({several}) => String(several.N)],
  ...STEPS,
  ['tokens/s of one', ({one}) => perSecond(one)],
  ['tokens/s of all', ({several}) => perSecond(several)],
  faster,
  ...TIMELINE,
];

const CONTEXT: Column<Row>[] = [
  ...SUBJECT,
  ['mask', ({several}) => code(several.mask)],
  ['masked', ({several}) => percent(several.masked)],
  ['N', ({several}) => String(several.N)],
  ...STEPS,
  ['faster', ({one, several}) => ratio(one?.medianMs, several.medianMs)],
  ['imbalance', ({several}) => (several.imbalance === undefined ? '–' : percent(several.imbalance))],
  ...TIMELINE,
];

/** The longest row, and the one that failed, if memory ran out there. */
function longestOf(r?: BenchRecord): string {
  if (r?.longestN === undefined) return r?.outcome ?? '–';
  return r.nextN === undefined || r.reason !== undefined ? `at least ${r.longestN}` : String(r.longestN);
}

const failedOf = (r?: BenchRecord): string => String(r?.nextN ?? '–');

const LONGEST: Column<Row>[] = [
  ...SUBJECT,
  ['longest on one GPU', ({one}) => longestOf(one)],
  ['fails at', ({one}) => failedOf(one)],
  ['GPUs', ({several}) => String(several.ranks)],
  ['longest on several', ({several}) => longestOf(several)],
  ['fails at', ({several}) => failedOf(several)],
  ['longer', ({one, several}) => ratio(several.longestN, one?.longestN)],
];

const TABLES = {
  data: {title: 'A row on each GPU', columns: DATA},
  context: {title: 'One row on all GPUs', columns: CONTEXT},
  longest: {title: 'The longest row', columns: LONGEST},
} as const;

/** Everything that one rank and several have in common. */
const subjectOf = ({device, model, task, mask, N, eager, xla, dtype}: BenchRecord): string =>
  [device, model, task, mask, N, eager, xla, dtype].join(' ');

function rowsOf(records: readonly BenchRecord[]): Row[] {
  return groupedBy(records, subjectOf).flatMap(([, group]) => {
    const one = group.find(({ranks}) => ranks === 1);
    return group.filter(({ranks}) => ranks !== 1).map((several) => ({one, several}));
  });
}

export function distributedSections(all: readonly BenchRecord[]): Section[] {
  const records = all.filter(({suite}) => suite === 'distributed');
  return Object.entries(TABLES).map(([part, {title, columns}]) => {
    const groups = groupedBy(
      records.filter((record) => record.part === part),
      ({device}) => device,
    );
    const texts = groups
      .map(([device, group]) => [device, table(columns, rowsOf(group))])
      .filter(([, text]) => text !== '')
      .map(([device, text]) => `**${device}**\n\n${text}`);
    return {name: `distributed-${part}`, title, text: texts.join('\n\n')};
  });
}
