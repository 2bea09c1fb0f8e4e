/** @file The chart of the losses. */
import * as Plot from '@observablehq/plot';

export interface Point {
  step: number;
  loss: number;
  attention: 'flashMask' | 'dense';
}

/** A line for each attention; the dashes of dense lie on flashMask's line. */
export function lossChart(points: readonly Point[], width: number): SVGElement | HTMLElement {
  const of = (name: Point['attention']): Point[] => points.filter(({attention}) => attention === name);
  const xy = {x: 'step', y: 'loss', stroke: 'attention'} as const;
  return Plot.plot({
    width,
    height: Math.min(340, Math.max(240, width * 0.42)),
    ...{marginLeft: 44, marginTop: 28, marginBottom: 44},
    style: {fontFamily: 'inherit', fontSize: '12px', background: 'transparent'},
    x: {label: 'step →', tickFormat: (step: number) => (Number.isInteger(step) ? String(step) : ''), tickSize: 0},
    y: {label: '↑ loss', grid: true, nice: true, tickSize: 0},
    color: {domain: ['flashMask', 'dense'], range: ['var(--mask-full)', 'var(--mask-visible)'], legend: true},
    marks: [
      Plot.line(of('flashMask'), {...xy, strokeWidth: 3.5}),
      Plot.line(of('dense'), {...xy, strokeWidth: 1.75, strokeDasharray: '5 4'}),
      ...(points.length < 4 ? [Plot.dot(points, {x: 'step', y: 'loss', fill: 'attention', r: 4})] : []),
    ],
  });
}
