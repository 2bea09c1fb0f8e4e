/** @file What grows in a straight line: time with the visible tiles of a mask, memory with the length. */
import {fitLine, type Line} from './fit.js';
import {measuredOf, ofPart, type Call, type SpeedRecord, type WebGPURecord} from './records.js';

/** Points of equal device, precision and head size, and the line through them. */
export interface FittedLine extends Call {
  pass?: 'forward' | 'backward';
  /** Visible tiles and milliseconds; or N and bytes. In the order of the first. */
  points: [x: number, y: number][];
  line: Line;
}

/** Fewer points always lie near a line. */
const LEAST_POINTS = 4;

/** Groups of equal keys, in the order of their first rows. */
function groupsOf<Row>(rows: readonly Row[], keyOf: (row: Row) => string): Row[][] {
  const groups = new Map<string, Row[]>();
  for (const row of rows) groups.set(keyOf(row), [...(groups.get(keyOf(row)) ?? []), row]);
  return [...groups.values()].filter((group) => group.length >= LEAST_POINTS);
}

function fitted(call: Call, points: [number, number][], pass?: FittedLine['pass']): FittedLine {
  const {machine, device, precision, N, H, D} = call;
  const inOrder = points.sort(([a], [b]) => a - b);
  return {machine, device, precision, N, H, D, pass, points: inOrder, line: fitLine(inOrder)};
}

const callKey = (r: Call): string => [r.machine, r.device, r.precision, r.N, r.H, r.D].join(' ');

/** Milliseconds of each pass against tiles, of all masks that were timed at a length. */
export function timeLines(records: readonly WebGPURecord[]): FittedLine[] {
  const timed = measuredOf(records).filter((r): r is SpeedRecord => r.part === 'masks' || r.part === 'fit');
  return groupsOf(timed, callKey).flatMap((group) =>
    (['forward', 'backward'] as const).map((pass) =>
      fitted(
        group[0],
        group.map((r) => [r.tiles, pass === 'forward' ? r.forwardMs : r.backwardMs]),
        pass,
      ),
    ),
  );
}

/** Peak bytes against N. */
export function memoryLines(records: readonly WebGPURecord[]): FittedLine[] {
  return groupsOf(ofPart(records, 'memory'), (r) => callKey({...r, N: 0})).map((group) =>
    fitted(
      group[0],
      group.map((r) => [r.N, r.peakBytes]),
    ),
  );
}
