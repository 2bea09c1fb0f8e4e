/** @file Plots of the WebGPU benchmark: time against visible tiles, and memory against length, with the lines through them. */
import * as Plot from '@observablehq/plot';
import {svg} from '../report.js';
import {memoryLines, timeLines, type FittedLine} from './lines.js';
import type {WebGPURecord} from './records.js';

/** A plot's name and its SVG document; those that there are records for. */
export function plotsOf(records: readonly WebGPURecord[]): [name: 'tiles' | 'memory', svg: string][] {
  const [times, memory] = [timeLines(records), memoryLines(records)];
  return [
    ...(times.length > 0 ? [['tiles', timePlot(times)] as ['tiles', string]] : []),
    ...(memory.length > 0 ? [['memory', memoryPlot(memory)] as ['memory', string]] : []),
  ];
}

/**
 * Time against tiles, each as a part of what the mask with the most tiles has (full attention, where it was measured): so panels of any
 * speed and length share their axes. A panel for each device, precision, head size and length.
 */
function timePlot(lines: readonly FittedLine[]): string {
  return linePlot(lines.map(relative), {
    title: 'Time against visible tiles, and the lines of least squares',
    panel: (l) => `${l.device}, ${l.precision}\nN ${l.N}, H ${l.H}\nD ${l.D}`,
    colorOf: ({pass}) => pass!,
    x: {label: 'visible tiles, of the most →', tickFormat: '.0%'},
    y: {label: '↑ time, of that for the most', tickFormat: '.0%'},
  });
}

function relative(l: FittedLine): FittedLine {
  const [mostTiles, mostMs] = l.points[l.points.length - 1];
  const points = l.points.map(([tiles, ms]): [number, number] => [tiles / mostTiles, ms / mostMs]);
  const {slope, intercept, r2} = l.line;
  return {...l, points, line: {slope: (slope * mostTiles) / mostMs, intercept: intercept / mostMs, r2}};
}

function memoryPlot(lines: readonly FittedLine[]): string {
  return linePlot(lines.map(inMebibytes), {
    title: 'Peak memory of forward and backward against length, and the lines of least squares',
    panel: (l) => `${l.device}, ${l.precision}\nH ${l.H}`,
    colorOf: ({D}) => `D ${D}`,
    x: {label: 'N →', tickFormat: 'd'},
    y: {label: '↑ MiB'},
  });
}

function inMebibytes(l: FittedLine): FittedLine {
  const scale = (y: number): number => y / 2 ** 20;
  const {slope, intercept, r2} = l.line;
  return {
    ...l,
    points: l.points.map(([x, y]) => [x, scale(y)]),
    line: {slope: scale(slope), intercept: scale(intercept), r2},
  };
}

interface Look {
  title: string;
  panel: (line: FittedLine) => string;
  colorOf: (line: FittedLine) => string;
  x: Plot.ScaleOptions;
  y: Plot.ScaleOptions;
}

const PANEL_HEIGHT = 220;
const COLORS = ['#1f6feb', '#d1242f', '#1a7f37', '#8250df'];

/** Points and lines, a panel below the other. */
function linePlot(lines: readonly FittedLine[], {title, panel, colorOf, x, y}: Look): string {
  const panels = [...new Set(lines.map(panel))];
  const colors = [...new Set(lines.map(colorOf))];
  const at = (l: FittedLine, [px, py]: readonly [number, number]) => ({
    x: px, y: py, panel: panel(l), series: colorOf(l),
  }); // prettier-ignore
  const measured = lines.flatMap((l) => l.points.map((point) => at(l, point)));
  const ends = lines.flatMap((l) =>
    [l.points[0][0], l.points[l.points.length - 1][0]].map((end) =>
      at(l, [end, l.line.intercept + l.line.slope * end]),
    ),
  );
  return svg({
    title,
    width: 760,
    height: 70 + PANEL_HEIGHT * panels.length,
    marginLeft: 60,
    marginRight: 110,
    x: {zero: true, ...x},
    y: {zero: true, grid: true, ...y},
    color: {domain: colors, range: COLORS},
    fy: {label: null, domain: panels},
    marks: [
      Plot.line(ends, {x: 'x', y: 'y', z: 'series', stroke: 'series', strokeOpacity: 0.5, fy: 'panel'}),
      Plot.dot(measured, {x: 'x', y: 'y', fill: 'series', r: 3, fy: 'panel'}),
      ...colors.map((series, i) =>
        Plot.text(panels, {
          text: () => `● ${series}`, fill: COLORS[i % COLORS.length], frameAnchor: 'top-left', fontWeight: 'bold',
          dx: 6, dy: 4 + 14 * i, fy: (name: string) => name,
        }),
      ),
    ],
  }); // prettier-ignore
}
