/** @file Fits straight lines: time against the visible tiles of a mask, memory against the length. */
import {groupedBy, measured, type BenchRecord} from '../record.js';

interface Line {
  slope: number;
  /** The value at 0. */
  intercept: number;
  /** Fraction of the values' variance that the line explains: 1 if all lie on it. */
  r2: number;
}

/** The least-squares line through points. At least two must differ in x, or slope and r2 are NaN. */
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

/** Points of equal device, precision and head size, and the line through them. */
export interface FittedLine {
  call: BenchRecord;
  pass?: 'forward' | 'backward';
  /** Visible tiles and milliseconds, or N and bytes. Sorted by x. */
  points: [x: number, y: number][];
  line: Line;
}

/** Fewer points always lie near a line. */
const LEAST_POINTS = 4;

function fitted(
  records: readonly BenchRecord[],
  keyOf: (r: BenchRecord) => string,
  pointOf: (r: BenchRecord) => [number, number],
  pass?: FittedLine['pass'],
): FittedLine[] {
  const where = (r: BenchRecord): string => [r.device, r.kind, r.precision, r.H, r.D, keyOf(r)].join(' ');
  return groupedBy(records, where).flatMap(([, [call, ...more]]) => {
    const points = [call, ...more].map(pointOf).sort(([a], [b]) => a - b);
    return points.length < LEAST_POINTS ? [] : [{call, pass, points, line: fitLine(points)}];
  });
}

/** Milliseconds of each pass against tiles, over all masks that were timed at a length. */
export function timeLines(records: readonly BenchRecord[]): FittedLine[] {
  const timed = records.filter((r) => r.suite === 'paper' && (r.part === 'masks' || r.part === 'fit') && r.tiles);
  const ofPass = (pass: 'forward' | 'backward'): FittedLine[] =>
    fitted(timed, ({N}) => String(N), (r) => [r.tiles!, r[`${pass}Ms`]!], pass); // prettier-ignore
  const backward = ofPass('backward');
  return ofPass('forward').flatMap((line, i) => [line, backward[i]]);
}

/** Peak bytes against N. */
export const memoryLines = (records: readonly BenchRecord[]): FittedLine[] =>
  fitted(measured(records, 'paper', 'memory'), () => '', (r) => [r.N, r.peakBytes!]); // prettier-ignore
