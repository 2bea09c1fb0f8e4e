/** @file The chart of time against sparsity. */
import * as Plot from '@observablehq/plot';
import type {BenchRecord} from '../../bench/record.js';

const NAMES = {flash: 'flashMaskAttention', dense: 'dense attention'} as const;
const COLOURS = ['var(--mask-full)', 'var(--mask-visible)'];

interface Point {
  masked: number;
  ms: number;
  mask: string;
  attention: string;
}

/** Milliseconds of forward and backward; undefined where they were not measured. */
export const msOf = ({forwardMs, backwardMs}: BenchRecord): number | undefined =>
  forwardMs === undefined || backwardMs === undefined ? undefined : forwardMs + backwardMs;

function pointsOf(records: readonly BenchRecord[]): Point[] {
  return records.flatMap((record) => {
    const ms = msOf(record);
    if (ms === undefined || record.masked === undefined) return [];
    const attention = NAMES[record.attention as keyof typeof NAMES];
    return [{masked: 100 * record.masked, ms, mask: record.mask ?? '', attention}];
  });
}

/** A point a record; masks are named at the points of flash. */
export function timeChart(records: readonly BenchRecord[], width: number): SVGElement | HTMLElement {
  const points = pointsOf(records);
  const flash = points.filter(({attention}) => attention === NAMES.flash).sort((a, b) => a.masked - b.masked);
  // Names of neighbours stand below and above their points, near and far.
  const names = [15, -14, 29, -28].map((dy, place) =>
    Plot.text(
      flash.filter((_, i) => i % 4 === place),
      {x: 'masked', y: 'ms', text: 'mask', dy, fill: 'currentColor', fontSize: 11},
    ),
  );
  return Plot.plot({
    width,
    height: Math.min(420, Math.max(280, width * 0.5)),
    marginLeft: 56,
    ...{marginTop: 28, marginBottom: 44, marginRight: 40},
    style: {fontFamily: 'inherit', fontSize: '12px', background: 'transparent'},
    x: {domain: [-3, 100], ticks: 6, label: 'masked pairs (%) →', tickSize: 0},
    y: {type: 'log', grid: true, label: '↑ forward and backward (ms)', tickSize: 0, nice: true},
    color: {domain: Object.values(NAMES), range: COLOURS, legend: true},
    marks: [Plot.dot(points, {x: 'masked', y: 'ms', fill: 'attention', r: 5, stroke: 'var(--surface)'}), ...names],
  });
}
