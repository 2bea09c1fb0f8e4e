/** @file Plots of a value for each mask. */
import * as Plot from '@observablehq/plot';
import {COLORS, page, standalone} from './svg.js';

export interface Dot {
  mask: string;
  x: number;
  series: string;
  panel: string;
}

/** A line of dots for each mask, side by side in panels. */
export function dots(points: readonly Dot[], title: string, x: Plot.ScaleOptions): string {
  const [masks, series, panels] = (['mask', 'series', 'panel'] as const).map((name) => [
    ...new Set(points.map((point) => point[name])),
  ]);
  const plot = Plot.plot({
    width: 760, height: 90 + 20 * masks.length, marginLeft: 130, marginRight: 20, marginTop: 60, inset: 8,
    x: {grid: true, ...x},
    y: {domain: masks, label: null, grid: true},
    fx: {label: null, domain: panels},
    color: {domain: series, range: COLORS},
    marks: [
      Plot.dot(points, {x: 'x', y: 'mask', fx: 'panel', fill: 'series', r: 4, fillOpacity: 0.8}),
      ...series.map((name, i) =>
        Plot.text([panels[0]], {
          fx: (panel: string) => panel, text: () => `● ${name}`, fill: COLORS[i], frameAnchor: 'top-left', fontWeight: 'bold',
          dx: 110 * i, dy: -44,
        })),
    ],
    ...page(),
  }); // prettier-ignore
  return standalone(plot, title);
}
