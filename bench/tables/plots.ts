/** @file Plots of benchmark records as SVG: time against sparsity or visible tiles, memory against length. */
import * as Plot from '@observablehq/plot';
import {measured, type BenchRecord} from '../record.js';
import {balancePlot, bytesPlot} from './context_parallel.js';
import {speedPlots} from './cuda.js';
import {type FittedLine, memoryLines, timeLines} from './fit.js';
import {isCpu} from './masks.js';
import {COLORS, page, standalone} from './svg.js';

interface Point {
  x: number;
  y: number;
  /** What its colour stands for. */
  series: string;
  row: string;
  column?: string;
  label?: string;
}

interface Look {
  title: string;
  /** Height of a row of panels. */
  height: number;
  x: Plot.ScaleOptions;
  y: Plot.ScaleOptions;
  /** Lines through points. Points of the same name are joined. */
  lines?: (Point & {name: string})[];
}

/** Panels of points and lines, and the names of the colours in the first one, as a standalone SVG document. */
function panels(points: readonly Point[], {title, height, x, y, lines = []}: Look): string {
  const series = [...new Set(points.map((point) => point.series))];
  const rows = [...new Set(points.map(({row}) => row))];
  const columns = points[0].column === undefined ? undefined : [...new Set(points.map(({column}) => column))];
  const facet = {fy: 'row', ...(columns ? {fx: 'column'} : {})};
  const place = {x: 'x', y: 'y', ...facet};
  const legend = series.map((name, i) =>
    Plot.text(points.slice(0, 1), {
      text: () => `● ${name}`, fill: COLORS[i % COLORS.length], frameAnchor: 'top-left', fontWeight: 'bold', dx: 6, dy: 4 + 14 * i,
      ...facet,
    }),
  ); // prettier-ignore
  const labels = points.filter(({label}) => label !== undefined);
  const plot = Plot.plot({
    width: 760, height: 60 + height * rows.length, marginLeft: 60, marginRight: 70, insetTop: 40, insetBottom: 16,
    x,
    y: {grid: true, ...y},
    color: {domain: series, range: COLORS},
    ...(columns ? {fx: {label: null, domain: columns}} : {}),
    fy: {label: null, domain: rows},
    marks: [
      Plot.line(lines, {...place, z: 'name', stroke: 'series', strokeOpacity: 0.5}),
      Plot.dot(points, {...place, fill: 'series', r: 3}),
      Plot.text(labels, {...place, text: 'label', dx: 5, dy: 6, fontSize: 9, rotate: 25, textAnchor: 'start'}),
      ...legend,
    ],
    ...page(),
  }); // prettier-ignore
  return standalone(plot, title);
}

const seriesOf = ({attention}: BenchRecord): string =>
  attention === 'dense' ? 'dense tfjs attention' : 'flashMaskAttention';

/** Forward and backward milliseconds against the fraction of masked pairs. */
function sparsityPlot(records: readonly BenchRecord[]): string {
  const points = records.map((r) => ({
    x: r.masked!,
    y: r.forwardMs! + (r.backwardMs ?? 0),
    series: seriesOf(r),
    row: `N ${String(r.N)}\nH ${String(r.H)}\nD ${String(r.D)}`,
    label: r.attention === 'flash' ? r.mask : undefined,
  }));
  return panels(points, {
    title: 'Forward + backward time against sparsity',
    height: 220,
    x: {label: 'masked pairs →', tickFormat: '.0%', domain: [0, 1]},
    y: {label: '↑ ms, forward + backward', type: 'log'},
  });
}

/** Peak MiB of forward and backward against the length. */
function lengthPlot(records: readonly BenchRecord[]): string {
  const points = records.map((r) => ({
    x: r.N,
    y: r.peakBytes! / 2 ** 20,
    series: seriesOf(r),
    row: `H ${String(r.H)}\nD ${String(r.D)}`,
    name: `${seriesOf(r)} ${String(r.mask)} ${String(r.H)} ${String(r.D)}`,
  }));
  return panels(points, {
    title: 'Peak memory against length',
    height: 300,
    x: {label: 'N →', type: 'log', base: 2, tickFormat: 'd', ticks: [...new Set(points.map(({x}) => x))]},
    y: {label: '↑ peak MiB, forward + backward', type: 'log'},
    lines: points,
  });
}

/** Points and least-squares lines: a row of panels per device and precision, a column per head size. */
function fitPlot(
  lines: readonly FittedLine[],
  nameOf: (line: FittedLine) => string,
  scaleOf: (line: FittedLine) => [x: number, y: number],
  look: Pick<Look, 'title' | 'x' | 'y'>,
): string {
  const at = (l: FittedLine, [x, y]: readonly [number, number]) => {
    const [scaleX, scaleY] = scaleOf(l);
    const {kind, precision, D} = l.call;
    const [series, row] = [nameOf(l), `${String(kind)}\n${String(precision)}`];
    const name = `${series} ${row} ${String(D)}`;
    return {x: x / scaleX, y: y / scaleY, series, row, column: `D ${String(D)}`, name};
  };
  const ends = lines.flatMap((l) =>
    [l.points[0][0], l.points[l.points.length - 1][0]].map((x) => at(l, [x, l.line.intercept + l.line.slope * x])),
  );
  return panels(
    lines.flatMap((l) => l.points.map((point) => at(l, point))),
    {...look, height: 220, x: {zero: true, ...look.x}, y: {zero: true, ...look.y}, lines: ends},
  );
}

const flashFirst = (records: readonly BenchRecord[]): BenchRecord[] =>
  [...records].sort((a, b) => Number(a.attention === 'dense') - Number(b.attention === 'dense'));

/** Fewest records that are worth a plot. */
const LEAST_PLOTTED = 3;

/**
 * The plots of a record file, by name.
 *
 * @param file Name of the file, without its ending.
 */
export function plotsOf(file: string, records: readonly BenchRecord[]): Map<string, string> {
  const plots = new Map<string, string>();
  // Flash first: it has the first colour.
  const own = flashFirst(measured(records, 'masks'));
  if (own.filter(({attention}) => attention === 'flash').length >= LEAST_PLOTTED && !own.every(isCpu)) {
    plots.set(`${file}-time`, sparsityPlot(own));
    const withPeak = own.filter(({peakBytes}) => peakBytes !== undefined);
    if (new Set(withPeak.map(({N}) => N)).size > 1) plots.set(`${file}-memory`, lengthPlot(withPeak));
  }
  const [time, memory] = [timeLines(records), memoryLines(records)];
  // Values are relative to the mask with the most tiles, so that panels of any speed and length share their axes.
  const most = ({points}: FittedLine): [number, number] => points[points.length - 1];
  if (time.length > 0) {
    const look = {
      title: 'Time against visible tiles, and the lines of least squares',
      x: {label: 'visible tiles, of the most →', tickFormat: '.0%'},
      y: {label: '↑ time, of that for the most', tickFormat: '.0%'},
    };
    plots.set(
      `${file}-tiles`,
      fitPlot(time, ({pass, call}) => `${pass!}, N ${String(call.N)}`, most, look),
    );
  }
  if (memory.length > 0) {
    const look = {
      title: 'Peak memory of forward and backward against length, and the lines of least squares',
      x: {label: 'N →', tickFormat: 'd'},
      y: {label: '↑ MiB'},
    };
    plots.set(
      `${file}-memory`,
      fitPlot(
        memory,
        ({call}) => `H ${String(call.H)}`,
        () => [1, 2 ** 20],
        look,
      ),
    );
  }
  for (const [N, svg] of speedPlots(records)) plots.set(`${file}-speed-${N}`, svg);
  const shared = measured(records, 'context-parallel');
  if (shared.length > 0) {
    plots.set(`${file}-balance`, balancePlot(shared));
    plots.set(`${file}-bytes`, bytesPlot(shared));
  }
  return plots;
}
