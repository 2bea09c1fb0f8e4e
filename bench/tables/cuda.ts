/**
 * @file Tables and plots of bench/cuda/bench.py: the CUDA kernels next to other attentions, and next to what tfjs-node
 * makes of them.
 */
import {paperMasks} from '../masks.js';
import {
  groupedBy,
  measured,
  sideBySide,
  timesFaster,
  totalMs,
  type Attentions,
  type BenchRecord,
  type Pair,
} from '../record.js';
import {dots, type Dot} from './dots.js';
import {columnsOf, figure, MASK, MASKED, table, times, type Column, type Section} from './markdown.js'; // prettier-ignore

const speeds = (r?: BenchRecord): string => (r ? `${figure(r.forwardTflops)} / ${figure(r.backwardTflops)}` : '–');
const milliseconds = (r: BenchRecord): string => `${figure(r.forwardMs)} / ${figure(r.backwardMs)}`;
const valueSizes = ({D, Dv}: BenchRecord): string => (Dv === undefined ? String(D) : `${String(D)}, ${String(Dv)}`);
const ofFlash = (...columns: Column<BenchRecord>[]): Column<Pair>[] => columnsOf(({flash}) => flash, ...columns);

type Peer = Exclude<keyof Attentions, 'flash' | 'dense'>;

/** The other attentions, as the tables call them. */
const PEERS: [name: Peer, title: string][] = [
  ['flex', 'FlexAttention'],
  ['flex-flash', 'FlexAttention, FLASH'],
  ['cudnn', 'SDPA, cuDNN'],
  ['fa2', 'SDPA, FlashAttention 2'],
  ['fa4', 'FlashAttention-4'],
];
const FLEX: readonly Peer[] = ['flex', 'flex-flash'];

/** The fastest peer of a row, forward and backward, and the title that it has. */
function bestPeer(pair: Pair, names?: readonly Peer[]): {title: string; record: BenchRecord} | undefined {
  const peers = PEERS.flatMap(([name, title]) =>
    pair[name] && (names?.includes(name) ?? true) ? [{title, record: pair[name]}] : [],
  );
  return peers.sort((a, b) => totalMs(a.record) - totalMs(b.record)).at(0);
}

const fasterThan = (pair: Pair, names?: readonly Peer[]): number =>
  timesFaster(pair.flash, bestPeer(pair, names)?.record);

const BEST: Column<Pair>[] = [
  ['best peer', (pair) => bestPeer(pair)?.title ?? '–'],
  ['its TFLOP/s', (pair) => speeds(bestPeer(pair)?.record)],
  ['faster', (pair) => times(fasterThan(pair))],
];

/** All that was measured. */
const NEXT_TO_PEERS: Column<Pair>[] = [
  ...ofFlash(MASK, ['N', ({N}) => String(N)], ['D', valueSizes], MASKED),
  ...ofFlash(['ms forward / backward', milliseconds], ['TFLOP/s forward / backward', speeds]),
  ...BEST,
  ...PEERS.map(([name, title]): Column<Pair> => [title, (pair) => speeds(pair[name])]),
];

/** Sorts by length, head sizes and mask: processes that measure in turn add their records in any order. */
const inOrder = <Row extends {flash: BenchRecord}>(rows: readonly Row[]): Row[] => {
  const placeOf = ({flash: {N, D = 0, Dv = D, mask = ''}}: Row): number[] => [N, D, Dv, paperMasks.indexOf(mask)];
  const apart = (a: number[], b: number[]): number => a.map((x, i) => x - b[i]).find((x) => x !== 0) ?? 0;
  return [...rows].sort((a, b) => apart(placeOf(a), placeOf(b)));
};

// Records of flash have a precision; those of other attentions do not.
const pairsOf = (records: readonly BenchRecord[]): Pair[] =>
  inOrder(sideBySide(measured(records, 'cuda'), 'precision'));

/** A table for each device, type of tensors and heads. */
export function cudaTables(records: readonly BenchRecord[]): string[] {
  const groups = groupedBy(pairsOf(records), ({flash: {device, input, B, H, Hkv}}) => {
    const sizes = `B ${String(B)}, H ${String(H)}${Hkv === H ? '' : `, Hkv ${String(Hkv)}`}`;
    return `**${device}**, CUDA kernels on ${String(input)} tensors, ${sizes}, next to other attentions in the same run:`;
  });
  return groups.flatMap(([title, rows]) => [title, table(NEXT_TO_PEERS, rows)]);
}

const is16Bit = ({flash}: Pair): boolean => flash.input !== 'float32';

/** The calls of 16-bit tensors, by device, length and sizes of heads. */
const callsOf = (records: readonly BenchRecord[]): [title: string, rows: Pair[]][] =>
  groupedBy(pairsOf(records).filter(is16Bit), ({flash}) => {
    const {device, input, N, H} = flash;
    return `**${device}**, ${String(input)}, N ${String(N)}, H ${String(H)}, D ${valueSizes(flash)}`;
  });

const percents = ({flash}: Pair, causal?: BenchRecord): string => {
  const part = (pass: 'forwardTflops' | 'backwardTflops'): string =>
    `${((100 * flash[pass]!) / causal![pass]!).toFixed(0)}%`;
  return causal ? `${part('forwardTflops')} / ${part('backwardTflops')}` : '–';
};

const geometricMean = (values: readonly number[]): number =>
  Math.exp(values.reduce((sum, x) => sum + Math.log(x), 0) / values.length);

/** How many times faster all rows are, in a sentence; none where no row has a peer. */
function meanOf(than: string, ratios: readonly number[]): string[] {
  const found = ratios.filter(Number.isFinite);
  if (found.length < 2) return [];
  const mean = `geometric mean ${times(geometricMean(found))}, least ${times(Math.min(...found))}`;
  return [`Forward and backward together, next to ${than}, over ${String(found.length)} rows: ${mean}.`];
}

/** A table for each length and head size, with the share of the causal mask's speed. */
function speedTables(records: readonly BenchRecord[]): string[] {
  return callsOf(records).flatMap(([title, rows]) => {
    const causal = rows.find(({flash}) => flash.mask === 'causal')?.flash;
    const columns: Column<Pair>[] = [
      ...ofFlash(MASK, MASKED, ['TFLOP/s', speeds]),
      ['of causal', (pair) => percents(pair, causal)],
      ['FlexAttention, the faster', (pair) => speeds(bestPeer(pair, FLEX)?.record)],
      ['faster', (pair) => times(fasterThan(pair, FLEX))],
      ...BEST,
    ];
    const ratios = rows.map((pair) => fasterThan(pair, FLEX));
    return [`${title}, forward / backward:`, table(columns, rows), ...meanOf('FlexAttention', ratios)];
  });
}

/** A call through tfjs-node, and FlexAttention's on the same mask. */
interface Float32Row {
  flash: BenchRecord;
  flex: BenchRecord;
}

const FLOAT32: Column<Float32Row>[] = [
  ...columnsOf(({flash}: Float32Row) => flash, MASK, ['N', ({N}) => String(N)], ['D', valueSizes], MASKED),
  ['ms forward / backward', ({flash}) => milliseconds(flash)],
  ['FlexAttention', ({flex}) => milliseconds(flex)],
  ['faster', ({flash, flex}) => times(timesFaster(flash, flex))],
];

/** Masks of one name may have other documents, and so another share of masked pairs. */
const SAME_MASKED = 1e-3;

/** The calls of tfjs-node on a GPU that FlexAttention was timed on as well, from float32 tensors with TF32 products. */
function float32Rows(records: readonly BenchRecord[]): Float32Row[] {
  const theirs = measured(records, 'cuda').filter((r) => r.attention === 'flex' && r.input === 'float32');
  const ours = measured(records, 'masks').filter((r) => r.backend === 'tensorflow' && r.attention === 'flash');
  const rows = ours.flatMap((flash) => {
    const flex = theirs.find(
      (r) =>
        (['device', 'mask', 'N', 'H', 'D'] as const).every((name) => r[name] === flash[name]) &&
        Math.abs(r.masked! - flash.masked!) < SAME_MASKED,
    );
    return flex ? [{flash, flex}] : [];
  });
  return inOrder(rows);
}

function float32Tables(records: readonly BenchRecord[]): string[] {
  return groupedBy(float32Rows(records), ({flash: {device, H}}) => `**${device}**, H ${String(H)}`).flatMap(
    ([title, rows]) => [
      `${title}, through tfjs-node, next to FlexAttention on TF32 in PyTorch:`,
      table(FLOAT32, rows),
      ...meanOf('FlexAttention', rows.map(({flash, flex}) => timesFaster(flash, flex))), // prettier-ignore
    ],
  );
}

export const cudaSections = (records: readonly BenchRecord[]): Section[] => [
  {name: 'cuda-speed', title: 'The CUDA kernels next to others', text: speedTables(records).join('\n\n')},
  {name: 'cuda-float32', title: 'From float32 tensors', text: float32Tables(records).join('\n\n')},
];

/** Speeds of a pair, one dot for each pass and attention. */
function dotsOf(pair: Pair): Dot[] {
  const dense = PEERS.map(([name]) => name).filter((name) => !FLEX.includes(name));
  const series = {
    'these kernels': pair.flash,
    FlexAttention: bestPeer(pair, FLEX)?.record,
    'dense peers': bestPeer(pair, dense)?.record,
  };
  return Object.entries(series).flatMap(([name, record]) =>
    (['forward', 'backward'] as const).flatMap((pass) => {
      const x = record?.[`${pass}Tflops`];
      const panel = `D ${valueSizes(pair.flash)} ${pass}`;
      return x === undefined ? [] : [{mask: pair.flash.mask!, x, series: name, panel}];
    }),
  );
}

/** The plots of a record file, one for each length, by length. */
export function speedPlots(records: readonly BenchRecord[]): [N: string, svg: string][] {
  const square = pairsOf(records).filter((pair) => is16Bit(pair) && pair.flash.Dv === undefined);
  const several = groupedBy(square, ({flash: {N}}) => String(N)).filter(
    ([, pairs]) => new Set(pairs.map(({flash}) => flash.mask)).size > 2,
  );
  return several.map(([N, pairs]) => [
    N,
    dots(pairs.flatMap(dotsOf), `TFLOP/s of visible pairs at N ${N}`, {
      label: 'TFLOP/s →',
      zero: true,
      ticks: [0, 200, 400, 600],
    }),
  ]);
}
