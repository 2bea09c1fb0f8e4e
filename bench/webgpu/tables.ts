/** @file The WebGPU benchmark's records as Markdown tables, which also a terminal can show. */
import {type Column, digits, figure, table, times} from '../tables.js';
import {type FittedLine, memoryLines, timeLines} from './lines.js';
import {paperMaskNames} from './paper_masks.js';
import {
  SHARE_LENGTH,
  SHARE_OF_CAUSAL,
  ofPart,
  type Call,
  type CompileRecord,
  type DenseRecord,
  type SpeedRecord,
  type WebGPURecord,
} from './records.js';

/** In the order in which they are shown. */
export const SECTION_NAMES = ['targets', 'dense', 'masks', 'long', 'fit', 'memory', 'compile'] as const;

/** A table with its title; `name` is the part that it is of. */
export interface Section {
  name: (typeof SECTION_NAMES)[number];
  title: string;
  text: string;
}

/** The sections that there are records for. */
export function sectionsOf(records: readonly WebGPURecord[]): Section[] {
  const sections: Section[] = [
    {name: 'targets', title: 'Causal, TFLOP/s over visible pairs', text: targets(ofPart(records, 'targets'))},
    {
      name: 'dense',
      title: 'Forward and backward against dense attention of tfjs ops',
      text: dense(ofPart(records, 'dense')),
    },
    {name: 'masks', title: 'Every mask, TFLOP/s forward / backward', text: maskTables(ofPart(records, 'masks'))},
    {name: 'long', title: 'Long rows', text: tableOf(LONG, ofPart(records, 'long'))},
    {name: 'fit', title: 'Time against visible tiles of 64 × 64', text: tableOf(TIME_FIT, timeLines(records))},
    {name: 'memory', title: 'Memory against length', text: tableOf(MEMORY_FIT, memoryLines(records))},
    {name: 'compile', title: 'First calls', text: tableOf(COMPILE, ofPart(records, 'compile'))},
  ];
  return sections.filter(({text}) => text !== '');
}

/** A record in a line, as the run goes on. */
export function describeRecord(r: WebGPURecord): string {
  const call = `${r.part}: ${r.device} ${r.precision} ${r.mask} N ${r.N} H ${r.H} D ${r.D}`.padEnd(70);
  return `${call} ${outcome(r)}`;
}

function outcome(r: WebGPURecord): string {
  if ('error' in r) return `failed: ${r.error}`;
  switch (r.part) {
    case 'dense':
      return `${digits(r.flashMs)} ms, dense ${digits(r.denseMs)} ms: ${times(r.denseMs / r.flashMs)}`;
    case 'compile':
      return `${r.pipelines} pipelines in ${digits(r.firstForwardMs + r.firstBackwardMs)} ms, then ${r.otherPipelines}`;
    case 'memory':
      return `${mebibytes(r.peakBytes)} MiB`;
    default:
      return `${digits(r.forwardMs)} / ${digits(r.backwardMs)} ms, ${tera(r.forwardTflops)} / ${tera(r.backwardTflops)} TFLOP/s`;
  }
}

const tableOf = <Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string =>
  rows.length === 0 ? '' : table(columns, rows);

/** TFLOP/s, those of a software adapter too. */
const tera = (x: number): string => (x < 0.1 ? x.toPrecision(2) : digits(x));

const mebibytes = (bytes: number): string => digits(bytes / 2 ** 20);

const WHERE: Column<Call>[] = [
  ['on', ({machine}) => machine],
  ['device', ({device}) => device],
  ['precision', ({precision}) => precision],
];
const SIZES: Column<Call>[] = [
  ['N', ({N}) => String(N)],
  ['H', ({H}) => String(H)],
  ['D', ({D}) => String(D)],
];
const CALL = [...WHERE, ...SIZES];

const targets = (records: readonly SpeedRecord[]): string =>
  tableOf<SpeedRecord>(
    [...CALL, ['forward', (r) => tera(r.forwardTflops)], ['backward', (r) => tera(r.backwardTflops)]],
    records,
  );

const dense = (records: readonly DenseRecord[]): string =>
  tableOf<DenseRecord>(
    [
      ...CALL,
      ['ms', (r) => figure(r.flashMs)],
      ['dense ms', (r) => figure(r.denseMs)],
      ['faster', (r) => times(r.denseMs / r.flashMs)],
      ['differs by', (r) => r.difference.toExponential(1)],
    ],
    records,
  );

const LONG: Column<SpeedRecord>[] = [
  ['mask', (r) => `\`${r.mask}\``],
  ...CALL,
  ['forward ms', (r) => figure(r.forwardMs)],
  ['TFLOP/s', (r) => tera(r.forwardTflops)],
  ['backward ms', (r) => figure(r.backwardMs)],
  ['TFLOP/s', (r) => tera(r.backwardTflops)],
];

const TIME_FIT: Column<FittedLine>[] = [
  ...CALL,
  ['pass', ({pass}) => pass!],
  ['masks', ({points}) => String(points.length)],
  ['ns a tile', ({line}) => figure(1e6 * line.slope)],
  ['ms without a tile', ({line}) => line.intercept.toFixed(2)],
  ['R²', ({line}) => line.r2.toFixed(4)],
];

const MEMORY_FIT: Column<FittedLine>[] = [
  ...WHERE,
  ['H', ({H}) => String(H)],
  ['D', ({D}) => String(D)],
  ['MiB at N', ({points}) => points.map(([N, bytes]) => `${N}: ${mebibytes(bytes)}`).join(', ')],
  ['bytes a token and head', ({line, H}) => figure(line.slope / H)],
  ['R²', ({line}) => line.r2.toFixed(4)],
];

const COMPILE: Column<CompileRecord>[] = [
  ...WHERE,
  ['D', ({D}) => String(D)],
  ['pipelines', ({pipelines}) => String(pipelines)],
  ['first forward ms', (r) => figure(r.firstForwardMs)],
  ['first backward ms', (r) => figure(r.firstBackwardMs)],
  ['both', (r) => figure(r.firstForwardMs + r.firstBackwardMs)],
  ['again ms', (r) => figure(r.againMs)],
  ['pipelines for other lengths', ({otherPipelines}) => String(otherPipelines)],
];

/** A row of a table of masks: one mask on one device, at several lengths. */
type MaskRow = Map<number, SpeedRecord>;

/** A table for each device, precision and head size. */
function maskTables(records: readonly SpeedRecord[]): string {
  const kind = ({machine, device, precision, D}: Call): string => `**${machine}**, ${device}, ${precision}, D ${D}`;
  const kinds = [...new Set(records.map(kind))];
  return kinds
    .map((title) => `${title}:\n\n${maskTable(records.filter((record) => kind(record) === title))}`)
    .join('\n\n');
}

function maskTable(records: readonly SpeedRecord[]): string {
  const lengths = [...new Set(records.map(({N}) => N))].sort((a, b) => a - b);
  const base = baseOf(records);
  const rows = paperMaskNames
    .map((name): MaskRow => new Map(records.filter(({mask}) => mask === name).map((record) => [record.N, record])))
    .filter((row) => row.size > 0);
  const any = (row: MaskRow): SpeedRecord => [...row.values()][0];
  const columnsAt = (N: number): Column<MaskRow>[] => [
    [`N ${N}, H ${records.find((record) => record.N === N)!.H}`, (row) => pair(row.get(N), tera)],
    ...(base && N === base.N ? [['of causal', (row) => share(row.get(N), base)] satisfies Column<MaskRow>] : []),
  ];
  return table<MaskRow>(
    [
      ['mask', (row) => `\`${any(row).mask}\``],
      ['masked', (row) => `${(100 * any(row).masked).toFixed(1)}%`],
      ...lengths.flatMap(columnsAt),
    ],
    rows,
  );
}

/** What other masks are held against: causal at 32768, or at the longest there is. */
function baseOf(records: readonly SpeedRecord[]): SpeedRecord | undefined {
  const causal = records.filter(({mask}) => mask === 'causal').sort((a, b) => b.N - a.N);
  return causal.find(({N}) => N === SHARE_LENGTH) ?? causal[0];
}

const pair = (
  r: SpeedRecord | undefined,
  show: (x: number, pass: 'forwardTflops' | 'backwardTflops') => string,
): string =>
  r === undefined ? '–' : `${show(r.forwardTflops, 'forwardTflops')} / ${show(r.backwardTflops, 'backwardTflops')}`;

/** Percent of the base's TFLOP/s; in bold where it is less than asked. */
function share(record: SpeedRecord | undefined, base: SpeedRecord): string {
  return pair(record, (x, pass) => {
    const part = x / base[pass];
    const text = `${(100 * part).toFixed(0)}%`;
    return part < SHARE_OF_CAUSAL ? `**${text}**` : text;
  });
}
