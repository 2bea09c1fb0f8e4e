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
  /** Of the library's products, where it is not `'auto'` or the backend has several. */
  precision?: string;
  /** Why there are no figures: dense attention does not fit, say. */
  skipped?: string;
  compileMs?: number;
  forwardMs?: number;
  backwardMs?: number;
  forwardTflops?: number;
  backwardTflops?: number;
  /** Of tf.matMul in the same process, on CPUs. */
  matMulTflops?: number;
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
  const memory = Number.isNaN(bytes) ? '' : `, ${bytes.toFixed(1)}x less memory`;
  return `${times.toFixed(1)}x faster${memory}; differs by ${(flash.difference ?? NaN).toExponential(1)}`;
}

const measured = (records: readonly BenchRecord[]): BenchRecord[] => records.filter((r) => r.forwardMs !== undefined);

const COLORS = {domain: ['flash', 'dense'], range: ['#1f6feb', '#d1242f']};

/** Who is which colour, in the top left corner of a panel. */
function legend(data: readonly object[]): Plot.Markish[] {
  const first = data.slice(0, 1);
  const label = (text: string, fill: string, dy: number): Plot.Markish =>
    Plot.text(first, {text: () => text, fill, frameAnchor: 'top-left', dx: 6, dy, fontWeight: 'bold', fy: 'panel'});
  return [label('● flashMaskAttention', COLORS.range[0], 4), label('● dense tfjs attention', COLORS.range[1], 18)];
}

/** Forward + backward milliseconds against the fraction of masked pairs, a panel a length and head size. */
export function timePlot(records: readonly BenchRecord[]): string {
  const data = measured(records).map((r) => ({
    ...r,
    ms: (r.forwardMs ?? 0) + (r.backwardMs ?? 0),
    panel: `N ${String(r.N)}\nH ${String(r.H)}\nD ${String(r.D)}`,
  }));
  const flash = data.filter((r) => r.attention === 'flash');
  return svg({
    title: 'Forward + backward time against sparsity',
    width: 760,
    height: 60 + 220 * new Set(data.map(({panel}) => panel)).size,
    marginLeft: 60,
    marginRight: 70,
    insetTop: 40,
    insetBottom: 16,
    x: {label: 'masked pairs →', tickFormat: '.0%', domain: [0, 1]},
    y: {label: '↑ ms, forward + backward', type: 'log', grid: true},
    color: COLORS,
    fy: {label: null, domain: [...new Set(data.map(({panel}) => panel))]},
    marks: [
      Plot.dot(data, {x: 'sparsity', y: 'ms', fill: 'attention', r: 4, fy: 'panel'}),
      Plot.text(flash, {
        x: 'sparsity',
        y: 'ms',
        text: 'mask',
        dx: 5,
        dy: 6,
        fontSize: 9,
        rotate: 25,
        textAnchor: 'start',
        fy: 'panel',
      }),
      ...legend(data),
    ],
  });
}

/** Peak MiB of forward + backward against the length, a panel a number of heads and head size. */
export function memoryPlot(records: readonly BenchRecord[]): string {
  const data = measured(records).map((r) => ({
    ...r,
    MiB: (r.peakBytes ?? 0) / 2 ** 20,
    panel: `H ${String(r.H)}\nD ${String(r.D)}`,
  }));
  return svg({
    title: 'Peak memory against length',
    width: 760,
    height: 60 + 300 * new Set(data.map(({panel}) => panel)).size,
    marginLeft: 60,
    marginRight: 70,
    insetTop: 40,
    insetBottom: 16,
    x: {label: 'N →', type: 'log', base: 2, tickFormat: 'd', ticks: [...new Set(data.map(({N}) => N))]},
    y: {label: '↑ peak MiB, forward + backward', type: 'log', grid: true},
    color: COLORS,
    fy: {label: null, domain: [...new Set(data.map(({panel}) => panel))]},
    marks: [
      Plot.line(data, {
        x: 'N',
        y: 'MiB',
        z: (r: BenchRecord) => r.attention + r.mask,
        stroke: 'attention',
        marker: true,
        fy: 'panel',
      }),
      ...legend(data),
    ],
  });
}

/** A plot as an SVG document of its own. */
export function svg({title, ...options}: Plot.PlotOptions & {title: string}): string {
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
