/** @file Tables of the suite `masks`, and the short one of README.md. */
import {groupedBy, measured, sideBySide, timesFaster, totalMs, type BenchRecord, type Pair} from '../record.js';
import {cudaTables} from './cuda.js';
import {
  code, columnsOf, DIFFERS, digits, figure, MASK, MASKED, mebibytes, PASSES, PEAK, SIZES, table, times, type Column, type Section,
} from './markdown.js'; // prettier-ignore

const lessMemory = ({flash, dense}: Pair): number => (dense?.peakBytes ?? NaN) / (flash.peakBytes ?? NaN);
const ofFlash = (...columns: Column<BenchRecord>[]): Column<Pair>[] => columnsOf(({flash}) => flash, ...columns);

const CALL = [MASK, ...SIZES, MASKED];
const FASTER: Column<Pair> = ['faster', ({flash, dense}) => times(timesFaster(flash, dense))];
const LESS_MEMORY: Column<Pair> = ['less memory', (pair) => times(lessMemory(pair))];

const AGAINST_DENSE: Column<Pair>[] = [
  ...ofFlash(...CALL, ['ms', (flash) => digits(totalMs(flash))]),
  ['dense ms', ({dense}) => digits(totalMs(dense!))],
  FASTER,
  ...ofFlash(PEAK),
  ['dense MiB', ({dense}) => mebibytes(dense!.peakBytes)],
  LESS_MEMORY,
  ['forward ms', ({flash}) => figure(flash.forwardMs)],
  ['dense', ({dense}) => figure(dense!.forwardMs)],
  ['backward ms', ({flash}) => figure(flash.backwardMs)],
  ['dense', ({dense}) => figure(dense!.backwardMs)],
  ...ofFlash(DIFFERS),
];

const ALONE = ofFlash(...CALL, ...PASSES, PEAK);

/** Columns for CPUs. Absolute times there say more about the machine and its other work than about attention. */
const RATIOS = [...ofFlash(...CALL), FASTER, LESS_MEMORY, ...ofFlash(DIFFERS)];

export const isCpu = ({backend, device}: BenchRecord): boolean =>
  backend === 'tensorflow' ? !/nvidia/i.test(device) : backend !== 'webgpu' || /swiftshader/i.test(device);

const deviceOf = ({flash: {backend, device, kind}}: Pair): string =>
  [
    device === backend ? code(backend) : `${device}, ${code(backend)}`,
    ...(kind === 'full' ? ['full device'] : []),
  ].join(', ');

/** The tables of one device. */
function deviceTables(name: string, pairs: readonly Pair[]): string[] {
  const against = pairs.filter(({dense}) => dense);
  const alone = pairs.filter(({dense}) => !dense);
  const titled = (title: string, text: string): string[] => (text === '' ? [] : [`**${name}**, ${title}:`, text]);
  if (isCpu(pairs[0].flash)) {
    return titled('how many times faster and smaller than dense masked attention of tfjs', table(RATIOS, against));
  }
  return [
    ...titled('forward and backward, against dense masked attention of tfjs', table(AGAINST_DENSE, against)),
    ...titled('by itself', table(ALONE, alone)),
  ];
}

/** A row of README.md's table: one call against dense attention, forward and backward. */
interface SummaryRow {
  call: BenchRecord;
  backend: string;
  faster: number;
  lessMemory?: number;
}

const SUMMARY: Column<SummaryRow>[] = [
  ['device', ({call: {device, backend}}) => (device === backend ? 'one CPU core' : device)],
  ['backend', ({backend}) => backend],
  ...columnsOf(({call}: SummaryRow) => call, MASK, ...SIZES),
  ['faster', (row) => times(row.faster)],
  ['less memory', (row) => times(row.lessMemory)],
];

/** The mask that README.md shows for each device: the first of these that was measured there. */
const SUMMARY_MASKS = ['causalDocument', 'causal'];

/**
 * The fastest call of the full WebGPU device, and the longest call of each backend and device. NVIDIA GPUs come first.
 */
function summary(pairs: readonly Pair[], records: readonly BenchRecord[]): string {
  const onFullDevice = sideBySide(measured(records, 'paper', 'dense').filter(({kind}) => kind === 'full'))
    .map(({flash, dense}): SummaryRow => {
      const backend = `${code('webgpu')}, full device, ${String(flash.precision)}`;
      return {call: flash, backend, faster: (dense?.bothMs ?? NaN) / (flash.bothMs ?? NaN)};
    })
    .sort((a, b) => b.faster - a.faster)
    .slice(0, 1);
  const longest = groupedBy(pairs.filter(({dense}) => dense), deviceOf).flatMap(([, own]): SummaryRow[] => {
    const mask = SUMMARY_MASKS.find((name) => own.some(({flash}) => flash.mask === name));
    const [pair] = own.filter(({flash}) => flash.mask === mask).sort((a, b) => b.flash.N - a.flash.N);
    if (pair === undefined) return [];
    const {flash, dense} = pair;
    return [{call: flash, backend: code(flash.backend), faster: timesFaster(flash, dense), lessMemory: lessMemory(pair)}];
  }); // prettier-ignore
  const isNvidia = ({call}: SummaryRow): number => Number(/NVIDIA/.test(call.device));
  return table(SUMMARY, [...onFullDevice, ...longest.sort((a, b) => isNvidia(b) - isNvidia(a))]);
}

export function maskSections(records: readonly BenchRecord[]): Section[] {
  const pairs = sideBySide(measured(records, 'masks'));
  const devices = groupedBy(pairs, deviceOf).flatMap(([name, group]) => deviceTables(name, group));
  const text = [...devices, ...cudaTables(records)].join('\n\n');
  return [
    {name: 'benchmark', title: 'Masks', text},
    {name: 'benchmark-summary', title: 'Against dense attention', text: summary(pairs, records)},
  ];
}
