/** @file Table and plots of the suite `context-parallel`. */
import {groupedBy, measured, type BenchRecord} from '../record.js';
import {dots} from './dots.js';
import {code, percent, table, type Column, type Section} from './markdown.js';

/** A mask at one length, with its records by the number of ranks. */
interface Row {
  mask: string;
  records: BenchRecord[];
}

/** Ring attention sends the keys of all other ranks to each. */
const ofRing = (rows: number, {N, ranks = 1}: BenchRecord): number => rows / (N - N / ranks);

const each =
  (show: (record: BenchRecord) => string) =>
  ({records}: Row): string =>
    records.map(show).join(' / ');

const COLUMNS: Column<Row>[] = [
  ['mask', ({mask}) => code(mask)],
  ['masked', ({records}) => percent(records[0].masked)],
  ['chunk', each(({chunk}) => String(chunk))],
  ['imbalance', each(({imbalance}) => percent(imbalance))],
  ['zigzag', each(({zigzagImbalance}) => percent(zigzagImbalance))],
  ['contiguous', each(({contiguousImbalance}) => percent(contiguousImbalance))],
  ['keys, of ring', each((r) => percent(ofRing(r.receivedRows!, r)))],
  ['at most', each((r) => percent(ofRing(r.mostReceivedRows!, r)))],
  ['plan, ms', each(({planMs}) => planMs!.toFixed(0))],
];

export function contextParallelSections(all: readonly BenchRecord[]): Section[] {
  const records = measured(all, 'context-parallel');
  const titleOf = (group: readonly BenchRecord[]): string => {
    const ranks = [...new Set(group.map((r) => r.ranks))].join(' / ');
    return `**A row of ${group[0].N.toLocaleString('en')} tokens on ${ranks} ranks**:`;
  };
  const texts = groupedBy(records, ({N}) => String(N)).flatMap(([, group]) => [
    titleOf(group),
    table(
      COLUMNS,
      groupedBy(group, ({mask}) => mask!).map(([mask, own]) => ({mask, records: own})),
    ),
  ]);
  return [{name: 'context-parallel', title: 'Context parallel plans', text: texts.join('\n\n')}];
}

const panelOf = ({N}: BenchRecord): string => `${N / 1024}K tokens`;

/** The ranks of the plot of balance. */
const PLOTTED_RANKS = 64;

/** The work of the busiest rank over the mean, of each way to deal a row. */
export function balancePlot(records: readonly BenchRecord[]): string {
  const middle = records.filter(({ranks}) => ranks === PLOTTED_RANKS);
  const ways = {
    'this plan': 'imbalance',
    zigzag: 'zigzagImbalance',
    contiguous: 'contiguousImbalance',
  } as const;
  const points = Object.entries(ways).flatMap(([series, name]) =>
    middle.map((r) => ({mask: r.mask!, x: 1 + r[name]!, series, panel: `${panelOf(r)}, ${PLOTTED_RANKS} ranks`})),
  );
  return dots(points, 'Work of the busiest rank over the mean', {label: 'busiest rank over the mean →', type: 'log'});
}

/** Keys that come to a rank, of those that ring attention sends. */
export function bytesPlot(records: readonly BenchRecord[]): string {
  const points = records.map((r) => ({
    mask: r.mask!,
    x: ofRing(r.receivedRows!, r),
    series: `${String(r.ranks)} ranks`,
    panel: panelOf(r),
  }));
  return dots(points, 'Keys that come to a rank, of those that ring attention sends', {
    label: 'bytes to a rank, of ring attention’s →',
    tickFormat: '.0%',
    domain: [0, 1],
  });
}
