/** @file Tables of the suite `paper`, and of the small WebGPU suites `decode`, `long`, `schedule` and `tiles`. */
import {groupedBy, measured, sideBySide, type BenchRecord, type Pair} from '../record.js';
import {paperMasks} from '../masks.js';
import {type FittedLine, memoryLines, timeLines} from './fit.js';
import {
  columnsOf, DIFFERS, exponent, figure, MASK, MASKED, mebibytes, PASSES, SIZES, table, tera, times, type Column, type Section,
} from './markdown.js'; // prettier-ignore

const WHERE: Column<BenchRecord>[] = [
  ['on', ({device}) => device],
  ['device', ({kind}) => kind ?? '–'],
  ['precision', ({precision}) => precision ?? 'auto'],
];
const CALL = [...WHERE, ...SIZES];
const ofFlash = (...columns: Column<BenchRecord>[]): Column<Pair>[] => columnsOf(({flash}) => flash, ...columns);
const ofLine = (...columns: Column<BenchRecord>[]): Column<FittedLine>[] => columnsOf(({call}) => call, ...columns);

const CAUSAL: Column<BenchRecord>[] = [
  ...CALL,
  ['forward', (r) => tera(r.forwardTflops)],
  ['backward', (r) => tera(r.backwardTflops)],
];

const DENSE: Column<Pair>[] = [
  ...ofFlash(...CALL),
  ['ms', ({flash}) => figure(flash.bothMs)],
  ['dense ms', ({dense}) => figure(dense?.bothMs)],
  ['faster', ({flash, dense}) => times((dense?.bothMs ?? NaN) / (flash.bothMs ?? NaN))],
  ...ofFlash(DIFFERS),
];

const SPEED = [MASK, ...CALL, ...PASSES];

const TIME_FIT: Column<FittedLine>[] = [
  ...ofLine(...CALL),
  ['pass', ({pass}) => pass!],
  ['masks', ({points}) => String(points.length)],
  ['ns a tile', ({line}) => figure(1e6 * line.slope)],
  ['ms without a tile', ({line}) => line.intercept.toFixed(2)],
  ['R²', ({line}) => line.r2.toFixed(4)],
];

const MEMORY_FIT: Column<FittedLine>[] = [
  ...ofLine(...WHERE, ...SIZES.slice(1)),
  ['MiB at N', ({points}) => points.map(([N, bytes]) => `${N}: ${mebibytes(bytes)}`).join(', ')],
  ['bytes a token and head', ({line, call}) => figure(line.slope / call.H!)],
  ['R²', ({line}) => line.r2.toFixed(4)],
];

const COMPILE: Column<BenchRecord>[] = [
  ...WHERE,
  ['D', ({D}) => String(D)],
  ['pipelines', ({pipelines}) => String(pipelines)],
  ['first forward ms', (r) => figure(r.firstForwardMs)],
  ['first backward ms', (r) => figure(r.firstBackwardMs)],
  ['both', (r) => figure(r.firstForwardMs! + r.firstBackwardMs!)],
  ['again ms', (r) => figure(r.againMs)],
  ['pipelines for other lengths', ({otherPipelines}) => String(otherPipelines)],
];

/**
 * K and V are read at least once: GB/s shows how near that is to the memory's speed. Tokens/s are those of one layer.
 */
const decodeColumns = (name: string, of: (pair: Pair) => BenchRecord | undefined): Column<Pair>[] => {
  const ms = (pair: Pair): number | undefined => of(pair)?.forwardMs;
  const gigabytes = ({flash: {N, Hkv, D}}: Pair): number => (2 * 4 * N * Hkv! * D!) / 1e9;
  const cell = (value: (ms: number, pair: Pair) => number) => (pair: Pair) =>
    ms(pair) === undefined ? '–' : value(ms(pair)!, pair).toFixed(0);
  return [
    [`${name} µs`, cell((x) => 1000 * x)],
    ['tokens/s', cell((x) => 1000 / x)],
    ['GB/s', cell((x, pair) => (1000 * gigabytes(pair)) / x)],
  ];
};

const DECODE: Column<Pair>[] = [
  ['keys', ({flash}) => String(flash.N)],
  ...ofFlash(...WHERE, ...SIZES.slice(1)),
  ['Hkv', ({flash}) => String(flash.Hkv)],
  ...decodeColumns('flash', ({flash}) => flash),
  ...decodeColumns('dense', ({dense}) => dense),
  ['faster', ({flash, dense}) => times((dense?.forwardMs ?? NaN) / (flash.forwardMs ?? NaN))],
  ...ofFlash(DIFFERS),
];

const LONG: Column<BenchRecord>[] = [
  ...SPEED,
  ['peak GiB', ({peakBytes = NaN}) => (peakBytes / 2 ** 30).toFixed(2)],
  ['largest errors', ({errors = {}}) => Object.entries(errors).map(([name, x]) => `${name} ${exponent(x)}`).join(', ')],
]; // prettier-ignore

/** Number of layers that share a mask, for the map's share of their forwards. */
const LAYERS = 32;
const share = ({queryMapMs = NaN, forwardMs = NaN}: BenchRecord, layers: number): string =>
  `${((100 * queryMapMs) / (queryMapMs + layers * forwardMs)).toFixed(2)}%`;

const SCHEDULE: Column<BenchRecord>[] = [
  MASK,
  ...CALL,
  ['map for forward, dq: ms', ({queryMapMs = NaN}) => queryMapMs.toFixed(3)],
  ['map for dkdv: ms', ({keyMapMs = NaN}) => keyMapMs.toFixed(3)],
  ['forward ms', ({forwardMs = NaN}) => forwardMs.toFixed(3)],
  ['map of the first call', (r) => share(r, 1)],
  [`of ${LAYERS} layers`, (r) => share(r, LAYERS)],
];

const TILES: Column<BenchRecord>[] = [
  ['pass', ({part = ''}) => part],
  ['tiles', ({shape = ''}) => shape],
  ...CALL,
  ['ms', (r) => figure(r.forwardMs ?? r.backwardMs)],
  ['TFLOP/s', (r) => tera(r.forwardTflops ?? r.backwardTflops)],
];

/** A row of a table of masks: one mask on one device, by length. */
type MaskRow = Map<number, BenchRecord>;

/** Masks with less than this fraction of causal's TFLOP/s are in bold. */
const SHARE_OF_CAUSAL = 0.7;
const SHARE_LENGTH = 32768;
const ofCausal = (x = NaN, causal = NaN): string => {
  const text = `${((100 * x) / causal).toFixed(0)}%`;
  return x / causal < SHARE_OF_CAUSAL ? `**${text}**` : text;
};

function maskTable(records: readonly BenchRecord[]): string {
  const lengths = [...new Set(records.map(({N}) => N))].sort((a, b) => a - b);
  // Other masks are compared with causal at 32768, or at the longest length there is.
  const causal = records.filter(({mask}) => mask === 'causal').sort((a, b) => b.N - a.N);
  const base = causal.find(({N}) => N === SHARE_LENGTH) ?? causal[0];
  const rows = paperMasks
    .map((name): MaskRow => new Map(records.filter(({mask}) => mask === name).map((record) => [record.N, record])))
    .filter((row) => row.size > 0);
  const columnsAt = (N: number): Column<MaskRow>[] => {
    const cell = (show: (x?: number, causal?: number) => string) => (row: MaskRow) => {
      const r = row.get(N);
      const passes = ['forwardTflops', 'backwardTflops'] as const;
      return r ? passes.map((pass) => show(r[pass], base?.[pass])).join(' / ') : '–';
    };
    const speeds = `N ${N}, H ${String(records.find((record) => record.N === N)!.H)}`;
    const shares: Column<MaskRow>[] = N === base?.N ? [['of causal', cell(ofCausal)]] : [];
    return [[speeds, cell(tera)], ...shares];
  };
  const any = columnsOf((row: MaskRow) => [...row.values()][0], MASK, MASKED);
  return table([...any, ...lengths.flatMap(columnsAt)], rows);
}

/** A table for each device, precision and head size. */
const maskTables = (records: readonly BenchRecord[]): string =>
  groupedBy(records, (r) => `**${r.device}**, ${String(r.kind)}, ${String(r.precision)}, D ${String(r.D)}`)
    .map(([title, group]) => `${title}:\n\n${maskTable(group)}`)
    .join('\n\n');

export function paperSections(records: readonly BenchRecord[]): Section[] {
  const part = (name: string): BenchRecord[] => measured(records, 'paper', name);
  return [
    {name: 'webgpu-causal', title: 'Causal, TFLOP/s over visible pairs', text: table(CAUSAL, part('causal'))},
    {
      name: 'webgpu-dense',
      title: 'Forward and backward against dense attention of tfjs ops',
      text: table(DENSE, sideBySide(part('dense'))),
    },
    {name: 'webgpu-masks', title: 'Every mask, TFLOP/s forward / backward', text: maskTables(part('masks'))},
    {name: 'webgpu-long', title: 'Long rows', text: table(SPEED, part('long'))},
    {name: 'webgpu-fit', title: 'Time against visible tiles of 64 × 64', text: table(TIME_FIT, timeLines(records))},
    {name: 'webgpu-memory', title: 'Memory against length', text: table(MEMORY_FIT, memoryLines(records))},
    {name: 'webgpu-compile', title: 'First calls', text: table(COMPILE, part('compile'))},
    {name: 'decode', title: 'One query against long keys', text: table(DECODE, sideBySide(measured(records, 'decode')))},
    {name: 'long', title: 'Past a binding', text: table(LONG, records.filter((r) => r.suite === 'long' && r.errors))},
    {name: 'schedule', title: 'Bounds map and schedule', text: table(SCHEDULE, measured(records, 'schedule'))},
    {name: 'tiles', title: 'Tile shapes', text: table(TILES, records.filter(({suite}) => suite === 'tiles'))},
  ]; // prettier-ignore
}
