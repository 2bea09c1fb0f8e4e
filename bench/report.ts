/** @file A benchmark's records as a terminal table, and as SVG plots: time against sparsity, memory against length. */
import * as Plot from '@observablehq/plot';
import {parseHTML} from 'linkedom';

/** One measured call: a line of the JSON lines file. Times in milliseconds; TFLOP/s over visible pairs only. */
export interface BenchRecord {
  backend: string;
  device: string;
  mask: string;
  N: number;
  H: number;
  D: number;
  /** Fraction of masked pairs. */
  sparsity: number;
  attention: 'flash' | 'dense';
  /** Why there are no figures: dense attention does not fit, say. */
  skipped?: string;
  compileMs?: number;
  forwardMs?: number;
  backwardMs?: number;
  forwardTflops?: number;
  backwardTflops?: number;
  /** Peak bytes of forward and backward beyond the inputs. */
  peakBytes?: number;
  /** Largest difference of the output from dense attention, where both ran. */
  difference?: number;
}

const COLUMNS: [title: string, width: number, cell: (r: BenchRecord) => string][] = [
  ['mask', 20, (r) => r.mask],
  ['N', 7, (r) => String(r.N)],
  ['H', 3, (r) => String(r.H)],
  ['D', 4, (r) => String(r.D)],
  ['masked', 7, (r) => `${(100 * r.sparsity).toFixed(1)}%`],
  ['attention', 9, (r) => r.attention],
  ['fwd ms', 10, (r) => fixed(r.forwardMs, 2)],
  ['bwd ms', 10, (r) => fixed(r.backwardMs, 2)],
  ['fwd TF/s', 9, (r) => fixed(r.forwardTflops, 3)],
  ['bwd TF/s', 9, (r) => fixed(r.backwardTflops, 3)],
  ['peak MiB', 9, (r) => fixed(r.peakBytes === undefined ? undefined : r.peakBytes / 2 ** 20, 1)],
];

const fixed = (value: number | undefined, digits: number): string =>
  value === undefined ? '–' : value.toFixed(digits);

export function tableHeader(): string {
  return COLUMNS.map(([title, width], i) => (i === 0 ? title.padEnd(width) : title.padStart(width))).join(' ');
}

/** One row; after a flash row that has a dense partner, how many times faster it was. */
export function tableRow(record: BenchRecord, dense?: BenchRecord): string {
  if (record.skipped) return `${cells(record)}   skipped: ${record.skipped}`;
  return `${cells(record)}${dense ? `   ${speedUp(record, dense)}` : ''}`;
}

function cells(record: BenchRecord): string {
  return COLUMNS.map(([, width, cell], i) =>
    i === 0 ? cell(record).padEnd(width) : cell(record).padStart(width),
  ).join(' ');
}

function speedUp(flash: BenchRecord, dense: BenchRecord): string {
  const total = (r: BenchRecord): number => (r.forwardMs ?? NaN) + (r.backwardMs ?? NaN);
  const times = total(dense) / total(flash);
  const bytes = (dense.peakBytes ?? NaN) / (flash.peakBytes ?? NaN);
  return `${times.toFixed(1)}x faster, ${bytes.toFixed(1)}x less memory; differs by ${(flash.difference ?? NaN).toExponential(1)}`;
}

const measured = (records: readonly BenchRecord[]): BenchRecord[] => records.filter((r) => r.forwardMs !== undefined);

/** Forward + backward milliseconds against the fraction of masked pairs, a panel a length. */
export function timePlot(records: readonly BenchRecord[]): string {
  const data = measured(records).map((r) => ({
    ...r,
    ms: (r.forwardMs ?? 0) + (r.backwardMs ?? 0),
    length: `N ${r.N}, D ${r.D}`,
  }));
  return svg({
    title: 'Forward + backward time against sparsity',
    width: 760,
    height: 420,
    marginLeft: 60,
    x: {label: 'masked pairs →', tickFormat: '.0%', domain: [0, 1]},
    y: {label: '↑ ms, forward + backward', type: 'log', grid: true},
    color: {legend: false, domain: ['flash', 'dense'], range: ['#1f6feb', '#d1242f']},
    fy: {label: null},
    marks: [
      Plot.dot(data, {x: 'sparsity', y: 'ms', fill: 'attention', r: 4, fy: 'length'}),
      Plot.text(
        data.filter((r) => r.attention === 'flash'),
        {x: 'sparsity', y: 'ms', text: 'mask', dy: -9, fontSize: 9, fy: 'length'},
      ),
    ],
  });
}

/** Peak MiB of forward + backward against the length, a line an attention and mask. */
export function memoryPlot(records: readonly BenchRecord[]): string {
  const data = measured(records).map((r) => ({
    ...r,
    MiB: (r.peakBytes ?? 0) / 2 ** 20,
    line: `${r.attention} ${r.mask} D${r.D}`,
  }));
  return svg({
    title: 'Peak memory against length',
    width: 760,
    height: 420,
    marginLeft: 60,
    x: {label: 'N →', type: 'log', base: 2},
    y: {label: '↑ peak MiB, forward + backward', type: 'log', grid: true},
    color: {domain: ['flash', 'dense'], range: ['#1f6feb', '#d1242f']},
    marks: [
      Plot.line(data, {x: 'N', y: 'MiB', z: 'line', stroke: 'attention', marker: true}),
      Plot.text(
        data,
        Plot.selectLast({
          x: 'N',
          y: 'MiB',
          z: 'attention',
          text: 'attention',
          dx: 6,
          dy: -6,
          textAnchor: 'start',
          fill: 'attention',
        }),
      ),
    ],
  });
}

function svg({title, ...options}: Plot.PlotOptions & {title: string}): string {
  const {document} = parseHTML('<html><body></body></html>');
  const plot = Plot.plot({
    ...options,
    document: document as unknown as Document,
    style: {background: 'white', color: '#1f2328'},
  });
  plot.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  const heading = document.createElementNS('http://www.w3.org/2000/svg', 'title');
  heading.textContent = title;
  plot.prepend(heading as unknown as Node);
  return `${plot.outerHTML}\n`;
}
