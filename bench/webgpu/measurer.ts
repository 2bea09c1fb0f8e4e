/** @file Measures the parts on one kind of WebGPU device, which this process then has for good. */
import * as tf from '@tensorflow/tfjs-core';
import {useWebGPU} from '../../src/node-webgpu.js';
import type {WebGPUBackend} from '../../src/webgpu/backend.js';
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
  const known = device === 'stock' ? (['float32'] as const) : options.precisions;
  // In the order of PARTS: `compile` comes first, while nothing has been compiled.
  for (const part of PARTS.filter((one) => options.parts.includes(one))) {
    for (const precision of known.filter((one) => options.precisions.includes(one))) {
      for (const task of tasksOf(part, options)) {
        const {N, H, D} = task;
        const call: Call = {machine: options.machine ?? adapter, device, precision, N, H, D};
        emit(await attempt(task, call, context, errors));
      }
    }
  }
}

async function attempt(task: Task, call: Call, context: Context, errors: string[]): Promise<WebGPURecord> {
  try {
    const record = await task.measure(call, context);
    if (errors.length > 0) throw new Error(errors.splice(0)[0]);
    return record;
  } catch (error) {
    errors.splice(0);
    const message = error instanceof Error ? error.message : String(error);
    return {...call, part: task.part, mask: task.mask, error: message.replace(/\s+/g, ' ').slice(0, 300)};
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
