/** @file What the WebGPU benchmark records, a JSON object a line, and the figures that it is to reach. Times in milliseconds. */
import {appendFileSync, existsSync, mkdirSync, readFileSync} from 'node:fs';
import {dirname} from 'node:path';

export const DEVICE_KINDS = ['stock', 'full'] as const;
/** tfjs's own device, or createWebGPUBackend()'s. */
export type DeviceKind = (typeof DEVICE_KINDS)[number];

export const PRECISIONS = ['float16', 'float32'] as const;
/** What the products read. A stock device has float32 alone. */
export type ReadPrecision = (typeof PRECISIONS)[number];

export const PARTS = ['compile', 'targets', 'dense', 'masks', 'long', 'fit', 'memory'] as const;
export type Part = (typeof PARTS)[number];

/** Where and with what sizes: B 1. */
export interface Call {
  /** The adapter's name, or --machine. */
  machine: string;
  device: DeviceKind;
  precision: ReadPrecision;
  N: number;
  H: number;
  D: number;
}

/** One attention, forward and backward each timed by itself. */
export interface SpeedRecord extends Call {
  part: 'targets' | 'masks' | 'long' | 'fit';
  mask: string;
  /** Fraction of masked pairs. */
  masked: number;
  /** Tiles of 64 x 64 that are not empty, over all heads. */
  tiles: number;
  forwardMs: number;
  backwardMs: number;
  /** Over visible pairs: 4 D operations a pair forward, 10 D backward. */
  forwardTflops: number;
  backwardTflops: number;
}

/** Forward and backward through tf.grads, with flashMaskAttention and with dense attention of tfjs ops. */
export interface DenseRecord extends Call {
  part: 'dense';
  mask: string;
  flashMs: number;
  denseMs: number;
  /** Largest difference of the outputs. */
  difference: number;
}

/** The first calls of a shape class in a process, the driver's disk cache switched off. */
export interface CompileRecord extends Call {
  part: 'compile';
  mask: string;
  firstForwardMs: number;
  /** After the first forward. */
  firstBackwardMs: number;
  /** The same forward and backward once more. */
  againMs: number;
  /** Compiled by the first calls. */
  pipelines: number;
  /** Lengths that were called after that, and what they compiled. */
  otherLengths: number[];
  otherPipelines: number;
}

export interface MemoryRecord extends Call {
  part: 'memory';
  mask: string;
  /** Most bytes of buffers held during forward and backward, beyond inputs and mask. */
  peakBytes: number;
}

/** A measurement that ended in an error. */
export interface FailureRecord extends Call {
  part: Part;
  mask: string;
  error: string;
}

export type MeasuredRecord = SpeedRecord | DenseRecord | CompileRecord | MemoryRecord;
export type WebGPURecord = MeasuredRecord | FailureRecord;

/** Of causal's TFLOP/s at 32768, for each mask and pass. */
export const SHARE_OF_CAUSAL = 0.7;
export const SHARE_LENGTH = 32768;

const keyOf = (r: WebGPURecord): string => [r.part, r.machine, r.device, r.precision, r.mask, r.N, r.H, r.D].join(' ');

/** Adds a line; makes the folder. */
export function appendRecord(path: string, record: WebGPURecord): void {
  mkdirSync(dirname(path), {recursive: true});
  appendFileSync(path, `${JSON.stringify(record)}\n`);
}

/** The records of a file, the latest of each measurement; none if there is no file. A last line that a killed run cut off is left out. */
export function readRecords(path: string): WebGPURecord[] {
  if (!existsSync(path)) return [];
  const text = readFileSync(path, 'utf8');
  const whole = text.slice(0, text.lastIndexOf('\n') + 1);
  const lines = whole.split('\n').filter(Boolean);
  return latest(lines.map((line) => JSON.parse(line) as WebGPURecord));
}

/** The last record of each measurement, in the order of the first ones. */
export function latest(records: readonly WebGPURecord[]): WebGPURecord[] {
  return [...new Map(records.map((record) => [keyOf(record), record])).values()];
}

export const measuredOf = (records: readonly WebGPURecord[]): MeasuredRecord[] =>
  records.filter((r): r is MeasuredRecord => !('error' in r));

type RecordOf<P extends Part> = P extends SpeedRecord['part'] ? SpeedRecord : Extract<MeasuredRecord, {part: P}>;

/** What was measured in one part. */
export function ofPart<P extends Part>(records: readonly WebGPURecord[], part: P): RecordOf<P>[] {
  return measuredOf(records).filter((r) => r.part === part) as RecordOf<P>[];
}
