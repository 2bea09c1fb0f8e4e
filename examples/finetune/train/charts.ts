/** @file Charts of loss, rewards and accuracy over the steps of a run: text for the terminal, and SVG files. */
import {writeFileSync} from 'node:fs';
import {join} from 'node:path';
import * as Plot from '@observablehq/plot';
import asciichart from 'asciichart';
import {parseHTML} from 'linkedom';
import {makeFolder} from '../../../src/node_webgpu/make_folder.js';
import {type Io, processIo} from '../io.js';
import type {MetricsRecord} from './metrics.js';

interface Chart {
  /** Name of the file, without `.svg`. */
  name: string;
  title: string;
  /** Fields of the records, and their names in the legend. */
  series: {field: string; label: string}[];
}

/** A chart shows the series that the run logged. SFT, DPO and reward models log under different names. */
const CHARTS: Chart[] = [
  {
    name: 'loss',
    title: 'Loss',
    series: [
      {field: 'loss', label: 'training loss'},
      {field: 'eval_loss', label: 'held-out loss'},
    ],
  },
  {
    name: 'rewards',
    title: 'Rewards',
    series: [
      {field: 'rewards/chosen', label: 'chosen'},
      {field: 'rewards/rejected', label: 'rejected'},
      {field: 'rewards/margins', label: 'margin'},
      {field: 'max_reward', label: 'highest'},
      {field: 'mean_reward', label: 'mean'},
      {field: 'min_reward', label: 'lowest'},
    ],
  },
  {
    name: 'accuracy',
    title: 'Accuracy',
    series: [
      {field: 'mean_token_accuracy', label: 'next token'},
      {field: 'rewards/accuracies', label: 'chosen above rejected'},
      {field: 'accuracy', label: 'better answer above worse'},
    ],
  },
];

interface Point {
  step: number;
  value: number;
}

interface Line {
  label: string;
  points: Point[];
}

/** Prints the charts. A terminal shows the lines of a chart in colours; elsewhere each line gets its own chart. */
export function printCharts(records: readonly MetricsRecord[], {say, terminal}: Io = processIo): void {
  for (const chart of CHARTS) {
    const lines = linesOf(chart, records);
    // Text has one column for each point, so only lines over the same steps share a chart.
    const together = terminal !== null && lines.every(({points}) => points.length === lines[0].points.length);
    const groups = together ? [lines] : lines.map((line) => [line]);
    for (const group of groups.filter(({length}) => length > 0)) {
      say(textChart(chart.title, group));
    }
  }
}

/**
 * Writes those of `loss.svg`, `rewards.svg` and `accuracy.svg` that the run has numbers for. Returns their paths. The
 * run is saved already, so one that cannot be written, as on a full disk, is only a warning.
 */
export function saveCharts(
  folder: string,
  records: readonly MetricsRecord[],
  {warn}: Pick<Io, 'warn'> = processIo,
): string[] {
  const charts = CHARTS.map((chart) => ({...chart, lines: linesOf(chart, records)}));
  return charts
    .filter(({lines}) => lines.length > 0)
    .flatMap(({name, title, lines}) => {
      const path = join(folder, `${name}.svg`);
      try {
        makeFolder(folder);
        writeFileSync(path, svgChart(title, lines));
        return [path];
      } catch (error) {
        warn(`${path} is not written: ${(error as Error).message}.`);
        return [];
      }
    });
}

function linesOf({series}: Chart, records: readonly MetricsRecord[]): Line[] {
  return series
    .map(({field, label}) => ({
      label,
      points: records
        .filter((record) => Number.isFinite(record[field]))
        .map((record) => ({step: record.global_step, value: record[field]})),
    }))
    .filter(({points}) => points.length > 0);
}

const TEXT_WIDTH = 60;
const TEXT_HEIGHT = 10;
const LABEL_WIDTH = 9;
const TEXT_COLOURS = [asciichart.blue, asciichart.red, asciichart.green];

/** At most three lines over the same steps. */
function textChart(title: string, lines: Line[]): string {
  const colours = lines.length > 1 ? TEXT_COLOURS : [];
  const series = lines.map(({points}) => average(points, TEXT_WIDTH));
  const {min, max} = range(series.flat());
  // Enough digits to tell one line of the chart from the next, the same on every line.
  const decimals = Math.min(7, Math.max(0, 3 - Math.ceil(Math.log10(max - min))));
  const format = (value: number): string => value.toFixed(decimals).padStart(LABEL_WIDTH);
  const body = asciichart.plot(series, {height: TEXT_HEIGHT, min, max, colors: colours, format});
  const legend = lines.map(({label}, i) => (lines.length > 1 ? `${colours[i]}── ${label}${asciichart.reset}` : label));
  return `\n${title}: ${legend.join('  ')}\n${body}\n${stepAxis(lines[0].points, series[0].length)}`;
}

/** The axis below the lines, with its first and last step. */
function stepAxis(points: Point[], columns: number): string {
  const indent = ' '.repeat(LABEL_WIDTH + 1);
  const [first, last] = [String(points[0].step), String(points.at(-1)!.step)];
  const labels = first.padEnd(Math.max(columns - last.length, first.length + 2)) + last;
  return `${indent}└${'─'.repeat(columns)}\n${indent}${labels} step`;
}

/** Averages the values into at least two and at most `columns` columns. */
function average(points: Point[], columns: number): number[] {
  // asciichart draws lines between columns, so one column alone is invisible.
  const count = Math.max(2, Math.min(columns, points.length));
  return Array.from({length: count}, (_, column) => {
    const start = Math.min(Math.floor((column * points.length) / count), points.length - 1);
    const end = Math.max(start + 1, Math.floor(((column + 1) * points.length) / count));
    return mean(points.slice(start, end));
  });
}

function mean(points: Point[]): number {
  return points.reduce((sum, {value}) => sum + value, 0) / points.length;
}

/** Widens a range of 0, which asciichart labels wrongly. */
function range(values: number[]): {min: number; max: number} {
  const [min, max] = [Math.min(...values), Math.max(...values)];
  const margin = max > min ? 0 : Math.max(Math.abs(max), 1) / 10;
  return {min: min - margin, max: max + margin};
}

/** Blue, vermilion and green of Okabe and Ito's palette, which colour-blind readers can distinguish. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73'];
const SIZE = {width: 720, height: 400, marginTop: 64, marginLeft: 64, marginBottom: 48, marginRight: 24};
const LEGEND_GAP = 28;
const LETTER_WIDTH = 7;
/** A point of the smooth line averages over this fraction of all points on either side. */
const SMOOTH_PART = 1 / 30;

/** At most three lines. Noisy lines are faint, with their moving average on top. */
function svgChart(title: string, lines: Line[]): string {
  const {document} = parseHTML('<!doctype html><html><body></body></html>');
  const svg = Plot.plot({
    ...SIZE,
    document,
    style: {background: 'white', color: '#222222', fontFamily: 'sans-serif', fontSize: '13px'},
    x: {label: 'step', labelAnchor: 'center', tickFormat: 'd', ticks: stepTicks(lines[0].points)},
    y: {label: null, grid: true, nice: true},
    marks: [heading(title), ...legendMarks(lines), ...lines.flatMap(({points}, i) => lineMarks(points, COLOURS[i]))],
  });
  svg.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  return `${svg.outerHTML}\n`;
}

/** With few steps each gets a tick, because Plot would put ticks between them. */
function stepTicks(points: Point[]): number | number[] {
  return points.length <= 10 ? points.map(({step}) => step) : 8;
}

function heading(title: string): Plot.Markish {
  return Plot.text([title], {frameAnchor: 'top-left', dy: -48, fontSize: 16, fontWeight: 'bold'});
}

function lineMarks(points: Point[], colour: string): Plot.Markish[] {
  const reach = Math.floor(points.length * SMOOTH_PART);
  const channels = {x: 'step', y: 'value', stroke: colour};
  if (points.length === 1) {
    return [Plot.dot(points, {...channels, fill: colour})];
  }
  if (reach === 0) {
    return [Plot.lineY(points, {...channels, strokeWidth: 2})];
  }
  const smooth = points.map(({step}, i) => ({step, value: mean(points.slice(Math.max(0, i - reach), i + reach + 1))}));
  return [
    Plot.lineY(points, {...channels, strokeWidth: 1, strokeOpacity: 0.35}),
    Plot.lineY(smooth, {...channels, strokeWidth: 2}),
  ];
}

/** Draws the legend above the frame: a stroke and a label per line. Plot's own legends are HTML beside the picture. */
function legendMarks(lines: Line[]): Plot.Markish[] {
  let x = 0;
  return lines.map(({label}, i) => {
    const mark = Plot.text([`━━ ${label}`], {frameAnchor: 'top-left', dx: x, dy: -22, fill: COLOURS[i]});
    x += LEGEND_GAP + (label.length + 4) * LETTER_WIDTH;
    return mark;
  });
}
