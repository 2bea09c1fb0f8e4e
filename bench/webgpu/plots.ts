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
 * speed and length share their axes.
 */
function timePlot(lines: readonly FittedLine[]): string {
  return linePlot(lines.map(relative), {
    title: 'Time against visible tiles, and the lines of least squares',
    seriesOf: ({pass, N}) => `${pass!}, N ${N}`,
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
    seriesOf: ({H}) => `H ${H}`,
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
  /** What a colour stands for. */
  seriesOf: (line: FittedLine) => string;
  x: Plot.ScaleOptions;
  y: Plot.ScaleOptions;
}

const PANEL_HEIGHT = 220;
const COLORS = ['#1f6feb', '#d1242f', '#54aeff', '#ff8182'];

const rowOf = ({device, precision}: FittedLine): string => `${device}\n${precision}`;
const columnOf = ({D}: FittedLine): string => `D ${D}`;

/** Points and lines, a row of panels for each device and precision, a column for each head size. */
function linePlot(lines: readonly FittedLine[], {title, seriesOf, x, y}: Look): string {
  const rows = [...new Set(lines.map(rowOf))];
  const series = [...new Set(lines.map(seriesOf))];
  const at = (l: FittedLine, [px, py]: readonly [number, number]) => ({
    x: px,
    y: py,
    row: rowOf(l),
    column: columnOf(l),
    series: seriesOf(l),
  });
  const measured = lines.flatMap((l) => l.points.map((point) => at(l, point)));
  const ends = lines.flatMap((l) =>
    [l.points[0][0], l.points[l.points.length - 1][0]].map((end) =>
      at(l, [end, l.line.intercept + l.line.slope * end]),
    ),
  );
  const place = {x: 'x', y: 'y', fx: 'column', fy: 'row'};
  return svg({
    title,
    width: 760,
    height: 80 + PANEL_HEIGHT * rows.length,
    marginLeft: 60,
    marginRight: 70,
    insetTop: 16,
    x: {zero: true, ...x},
    y: {zero: true, grid: true, ...y},
    color: {domain: series, range: COLORS},
    fx: {label: null, domain: [...new Set(lines.map(columnOf))]},
    fy: {label: null, domain: rows},
    marks: [
      Plot.line(ends, {...place, z: 'series', stroke: 'series', strokeOpacity: 0.5}),
      Plot.dot(measured, {...place, fill: 'series', r: 3}),
      ...series.map((name, i) => legendLine(measured[0], name, i)),
    ],
  });
}

/** Name and colour of a series, in the first panel. */
function legendLine(panel: {row: string; column: string}, name: string, i: number): Plot.Markish {
  return Plot.text([panel], {
    text: () => `● ${name}`,
    fill: COLORS[i % COLORS.length],
    frameAnchor: 'top-left',
    fontWeight: 'bold',
    dx: 6,
    dy: 4 + 14 * i,
    fx: 'column',
    fy: 'row',
  });
}
