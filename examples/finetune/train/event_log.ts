/**
 * @file The metrics of a run for TensorBoard, under the names of Hugging Face's transformers. TensorFlow writes them,
 * by the operations of tfjs-node's `tf.node.summaryFileWriter`, whose writers cannot be closed.
 */
import {existsSync, readFileSync, readdirSync, truncateSync} from 'node:fs';
import {join} from 'node:path';
import * as tf from '@tensorflow/tfjs';
import {fieldsOf} from '../../../src/backends/tensorflow/traced/protobuf.js';
import type {MetricsRecord} from './metrics.js';

export const REPORT_TO = ['none', 'tensorboard'] as const;
export type ReportTo = (typeof REPORT_TO)[number];

/** The folder within --output, as transformers names it. */
export const EVENTS_FOLDER = 'runs';

/** Throws if a backend has no writer of events. */
export function checkReportTo(reportTo: ReportTo, backend: string): void {
  if (reportTo === 'none' || backend === 'tensorflow') return;
  throw new Error(
    `--report-to tensorboard: TensorFlow writes the events, so the backend must be tensorflow, got ${backend}. Run: npx ` +
      'tfjs-flashmask setup-node. Or leave it out: metrics.jsonl has the same numbers on every backend.',
  );
}

/** The members of tfjs-node's backend that write events. */
interface EventBackend {
  summaryWriter(name: string): tf.Tensor;
  createSummaryFileWriter(writer: tf.Tensor, folder: string): void;
  writeScalarSummary(writer: tf.Tensor, step: number, name: string, value: number): void;
  flushSummaryWriter(writer: tf.Tensor): void;
  executeMultipleOutputs(op: string, attributes: [], inputs: tf.Tensor[], outputs: 0): void;
}

/** Writes a new file into a folder of events. */
export class EventLog {
  private readonly backend = tf.backend() as unknown as EventBackend;
  private readonly writer: tf.Tensor;
  private warned = false;

  /**
   * @param after the step that the run goes on from. Later ones, of a process that ended without a checkpoint of them,
   *   are cut off.
   * @param warn called once if the file cannot be written later on.
   */
  constructor(
    folder: string,
    after: number,
    private readonly warn: (text: string) => void,
  ) {
    if (existsSync(folder)) cutEvents(folder, after);
    this.writer = this.backend.summaryWriter(folder);
    tf.tidy(() => {
      this.backend.createSummaryFileWriter(this.writer, folder);
    });
  }

  /** A full disk does not end the run. */
  append({global_step: step, ...metrics}: MetricsRecord): void {
    try {
      for (const [name, value] of Object.entries(metrics)) {
        this.backend.writeScalarSummary(this.writer, step, scalarName(name), value);
      }
      this.backend.flushSummaryWriter(this.writer);
    } catch (error) {
      if (!this.warned) this.warn(`The events for TensorBoard lack steps: ${(error as Error).message}.`);
      this.warned = true;
    }
  }

  close(): void {
    this.backend.executeMultipleOutputs('CloseSummaryWriter', [], [this.writer], 0);
    this.writer.dispose();
  }
}

const scalarName = (name: string): string =>
  name.startsWith('eval_') ? `eval/${name.slice('eval_'.length)}` : `train/${name}`;

/** Cuts files of events off before the first event after a step, or before one that is not whole. */
function cutEvents(folder: string, after: number): void {
  for (const name of readdirSync(folder).filter((file) => file.includes('tfevents'))) {
    const file = join(folder, name);
    const bytes = readFileSync(file);
    const later = eventsOf(bytes).find(({step}) => step > after);
    truncateSync(file, later?.start ?? eventsOf(bytes).at(-1)?.end ?? 0);
  }
}

interface StoredEvent {
  start: number;
  end: number;
  step: number;
}

/** TFRecord frames: a length of 8 bytes, its checksum of 4, an Event message, its checksum of 4. */
function eventsOf(bytes: Buffer): StoredEvent[] {
  const events: StoredEvent[] = [];
  for (let start = 0; start + 12 <= bytes.length;) {
    const end = start + 12 + Number(bytes.readBigUInt64LE(start)) + 4;
    if (end > bytes.length) break;
    // Field 2 of an Event is its step; 0 is not written.
    const step = fieldsOf(bytes.subarray(start + 12, end - 4)).find(({field}) => field === 2)?.int ?? 0;
    events.push({start, end, step});
    start = end;
  }
  return events;
}
