/** @file What the page and its worker tell each other. */
import type {Failed} from '../shell/worker_messages.js';
import type {Precision} from '../../src/call/kernel_names.js';
import type {BenchRecord, DeviceKind} from '../../bench/record.js';

/** What to measure. */
export interface Order {
  backend: 'webgpu' | 'cpu';
  /** Of the WebGPU device. */
  kind: DeviceKind;
  precision: Precision;
  /** Name of the hardware, for the records. */
  machine: string;
  masks: string[];
  N: number;
  H: number;
  D: number;
  /** Seconds per measurement. */
  seconds: number;
}

export type Answer =
  | {type: 'started'; matrices: boolean; float16: boolean}
  | {type: 'measuring'; mask: string; attention: 'dense' | 'flash'}
  | {type: 'record'; record: BenchRecord}
  | {type: 'done'}
  | Failed;
