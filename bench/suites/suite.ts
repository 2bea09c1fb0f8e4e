/** @file What all suites share: their options, and how a measurement becomes a record. */
import * as tf from '@tensorflow/tfjs';
import type {Precision} from '../../src/call/kernel_names.js';
import type {Sizes} from '../attention.js';
import {forgetErrors, startBackend, type Backend, type Runtime} from '../backend.js';
import {failureOf} from '../failure.js';
import type {BenchRecord, Call, DeviceKind, Emit, Figures, Suite} from '../record.js';

/** What runs the calls. */
interface Where {
  /** Default: webgpu. */
  backend?: Backend;
  /** Kind of the WebGPU device. */
  device: DeviceKind;
  /** Name of the device in the records, where the adapter does not tell it. */
  machine?: string;
}

/** Options that several suites have. */
export interface CommonOptions extends Where {
  precision: Precision;
  lengths: number[];
  dims: number[];
  heads: number;
  masks: string[];
  /** Seconds per measurement. */
  seconds: number;
}

/** A started backend, and where the records go. */
export class Bench {
  private constructor(
    private readonly call: Pick<Call, 'suite' | 'backend' | 'device' | 'kind'>,
    readonly runtime: Runtime,
    private readonly emit: Emit,
  ) {}

  static async start(suite: Suite, {backend = 'webgpu', device: kind, machine}: Where, emit: Emit): Promise<Bench> {
    const runtime = await startBackend(backend, kind);
    const call = {suite, backend, device: machine ?? runtime.device, ...(backend === 'webgpu' ? {kind} : {})};
    return new Bench(call, runtime, emit);
  }

  /** Emits the record of a call. The record has the reason where `measure` throws or the device reports an error. */
  async measure(
    fields: Omit<Call, 'suite' | 'device'>,
    measure: () => Figures | Promise<Figures>,
  ): Promise<BenchRecord> {
    let figures: Figures;
    try {
      figures = await measure();
      this.runtime.check();
    } catch (error) {
      await forgetErrors(this.runtime);
      figures = failureOf(error);
    }
    const record = {...this.call, ...fields, ...figures};
    this.emit(record);
    return record;
  }
}

/** The calls of a suite: every mask at every length and head size. */
export const callsOf = ({dims, lengths, masks, heads: H}: CommonOptions): (Sizes & {mask: string})[] =>
  dims.flatMap((D) => lengths.flatMap((N) => masks.map((mask) => ({mask, N, H, D}))));

/** Runs `work`, then disposes the tensors even if it throws. */
export async function disposing<T>(tensors: tf.TensorContainer, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } finally {
    tf.dispose(tensors);
  }
}

/** The field `precision` of a record, present only where a precision was asked for. */
export const precisionField = (precision: Precision): {precision?: string} => (precision === 'auto' ? {} : {precision});
