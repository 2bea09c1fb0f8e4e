/** @file Measures the parts on one kind of WebGPU device, which this process then has for good. */
import * as tf from '@tensorflow/tfjs-core';
import {useWebGPU} from '../../src/node_webgpu/use_webgpu.js';
import type {WebGPUBackend} from '../../src/backends/webgpu/run/tfjs_backend.js';
import {Inputs} from './attention.js';
import {tasksOf, WARM_UP_SECONDS, type Context, type Plan, type Task} from './parts.js';
import {countPipelines, switchOffDriverCaches} from './pipelines.js';
import {PARTS, type Call, type DeviceKind, type Part, type ReadPrecision, type WebGPURecord} from './records.js';

export interface MeasurerOptions extends Plan {
  parts: readonly Part[];
  precisions: readonly ReadPrecision[];
  /** Name of the adapter in the records, where it does not tell it. */
  machine?: string;
}

/** Runs all tasks; each gives a record, a failed one too. */
export async function measureDevice(
  device: DeviceKind,
  options: MeasurerOptions,
  emit: (record: WebGPURecord) => void,
): Promise<void> {
  switchOffDriverCaches();
  const {adapter} = await useWebGPU({device});
  const backend = tf.backend() as unknown as WebGPUBackend;
  // What stands in tfjs's way to be heard: invalid shaders and commands give garbage otherwise.
  const errors: string[] = [];
  backend.device.addEventListener('uncapturederror', ({error}) => errors.push(error.message));
  const context = contextOf(backend.device, options.seconds);
  const precisions = options.precisions.filter((one) => one === 'float32' || canReadHalves(device, backend));
  // In the order of PARTS: `compile` comes first, while nothing has been compiled.
  for (const part of PARTS.filter((one) => options.parts.includes(one))) {
    for (const precision of precisions) {
      for (const task of tasksOf(part, options)) {
        const {N, H, D} = task;
        const call: Call = {machine: options.machine ?? adapter, device, precision, N, H, D};
        emit(await attempt(task, call, context, errors));
      }
    }
  }
}

/** tfjs asks its own device for no float16; others may not have it. */
function canReadHalves(kind: DeviceKind, {device}: WebGPUBackend): boolean {
  const has = device.features.has('shader-f16');
  if (kind === 'full' && !has) console.log('full float16: left out, for this device has no shader-f16');
  return kind === 'full' && has;
}

async function attempt(task: Task, call: Call, context: Context, errors: string[]): Promise<WebGPURecord> {
  try {
    const record = await task.measure(call, context);
    if (errors.length > 0) throw new Error(errors.splice(0)[0]);
    return record;
  } catch (error) {
    await forgetErrors();
    errors.splice(0);
    const message = error instanceof Error ? error.message : String(error);
    return {...call, part: task.part, mask: task.mask, error: message.replace(/\s+/g, ' ').slice(0, 300)};
  }
}

/** Most kernels of a task that may have failed before the first error was seen. */
const FAILED_KERNELS = 10_000;

/** What is read after an error of the device throws it: reads until none is left, so that the next task does not fail for this one. */
async function forgetErrors(): Promise<void> {
  for (let i = 0; i < FAILED_KERNELS; i++) {
    const one = tf.tidy(() => tf.add(tf.scalar(1), 1));
    try {
      await one.data();
      return;
    } catch {
      // The next.
    } finally {
      one.dispose();
    }
  }
}

function contextOf(device: GPUDevice, seconds: number): Context {
  let latest: Inputs | undefined;
  return {
    timing: {seconds, warmUpSeconds: WARM_UP_SECONDS},
    pipelines: countPipelines(device),
    inputsOf({N, H, D}) {
      if (latest?.N !== N || latest.H !== H || latest.D !== D) {
        latest?.dispose();
        latest = new Inputs(N, H, D);
      }
      return latest;
    },
  };
}
