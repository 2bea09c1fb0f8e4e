/** @file Straight lines through measurements. */

export interface Line {
  slope: number;
  /** The value at 0. */
  intercept: number;
  /** Part of the values' variance that the line explains: 1 if all lie on it. */
  r2: number;
}

/** The line of least squares through points; at least two must differ in x, or slope and r2 are NaN. */
export function fitLine(points: readonly (readonly [x: number, y: number])[]): Line {
  const mean = (of: (p: readonly [number, number]) => number): number =>
    points.reduce((sum, p) => sum + of(p), 0) / points.length;
  const [x0, y0] = [mean(([x]) => x), mean(([, y]) => y)];
  const [xx, xy, yy] = [
    mean(([x]) => (x - x0) ** 2),
    mean(([x, y]) => (x - x0) * (y - y0)),
    mean(([, y]) => (y - y0) ** 2),
  ];
  const slope = xy / xx;
  return {slope, intercept: y0 - slope * x0, r2: xy ** 2 / (xx * yy)};
}
