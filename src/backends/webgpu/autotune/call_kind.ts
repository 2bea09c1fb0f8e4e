/** @file The options of `autotune` and `prepareAttention` that describe calls to come, and their checks. */
import * as tf from '@tensorflow/tfjs-core';
import {checkFlag, checkOptions, describe, fail} from '../../../call/errors.js';
import type {Precision} from '../../../call/kernel_names.js';
import type {WebGPUBackend} from '../run/tfjs_backend.js';

/** Calls that run the same shaders. */
export interface CallKind {
  /** Channels of queries and keys. */
  D: number;
  /** Channels of values. Default D. */
  Dv?: number;
  /** Whether the calls are causal. Default true. */
  causal?: boolean;
  /** Whether the calls have dropout. Default false. */
  dropout?: boolean;
  /** The precision of the calls. Default `'auto'`. */
  precision?: Precision;
}

const KNOWN = ['D', 'Dv', 'causal', 'dropout', 'precision'] as const;

/** Checks `options` and fills in the defaults of the call kind. `more` names the further options that are allowed. */
export function readCallKind<T extends CallKind>(
  who: string,
  options: T,
  more: readonly (keyof T & string)[],
): T & Required<CallKind> {
  const given = checkOptions<T>(who, options, [...KNOWN, ...more]) as T;
  const {D, Dv = D, causal = true, dropout = false, precision = 'auto'} = given;
  for (const [name, value] of Object.entries({D, Dv})) checkPositive(who, name, value);
  for (const [name, value] of Object.entries({causal, dropout})) checkFlag(who, name, value);
  return {...given, D, Dv, causal, dropout, precision};
}

/** Throws unless an option is a positive integer. */
export function checkPositive(who: string, name: string, value: unknown): void {
  if (Number.isInteger(value) && (value as number) >= 1) return;
  fail(who, `${name} must be a positive integer`, describe(value), 'Pass for example {D: 64}.');
}

/** The current backend, which must be WebGPU. */
export function webgpuBackend(who: string): WebGPUBackend {
  const backend = tf.engine().backend as unknown as WebGPUBackend;
  if (backend?.device === undefined || backend.bufferManager === undefined) {
    const remedy = "Call `await tf.setBackend('webgpu')` or `await createWebGPUBackend()` first.";
    fail(who, 'the current backend must be WebGPU', `'${tf.getBackend()}'`, remedy);
  }
  return backend;
}
