/**
 * @file The parts of tfjs-backend-webgpu 4.22 that the kernels rest on, in one place: tensors to buffers, the buffer pool, and
 * reads. The backend's class keeps some of them private in TypeScript; they are plain properties at run time.
 */
import type {DataType, TensorInfo} from '@tensorflow/tfjs-core';
import {isUnusedGradient} from '../../../call/unused_gradient.js';

export interface BufferPool {
  acquireBuffer(size: number, usage: number): GPUBuffer;
  /** Gives a buffer back for reuse, or destroys it when `reuse` is false. */
  releaseBuffer(buffer: GPUBuffer, reuse?: boolean): void;
}

/** A tensor's entry: `resource` is its buffer once it is on the device, `values` what the host still holds. */
export interface TensorEntry {
  resource?: GPUBuffer | null;
  values?: ArrayLike<unknown> | null;
}

/** Identity of a tensor's data; the backend numbers them in the order of their making. */
export interface WebGPUDataId {
  id: number;
}

/** `WebGPUBackend` of tfjs-backend-webgpu, as far as it is used here. */
export interface WebGPUBackend {
  device: GPUDevice;
  queue: GPUQueue;
  bufferManager: BufferPool;
  tensorMap: {get(dataId: object): TensorEntry; has(dataId: object): boolean};
  /** Commands recorded but not submitted yet; null when there are none. */
  commandEncoder: GPUCommandEncoder | null;
  /** Whether tfjs is done with it: by tf.engine().reset() or tf.removeBackend(). */
  disposed: boolean;
  /** Pipelines by key, and promises of those on their way. */
  pipelineCache: Record<string, GPUComputePipeline | Promise<GPUComputePipeline>>;
  /** Waits for the promises in `pipelineCache`. */
  checkCompileCompletionAsync(): Promise<void>;
  /** Within `tf.time()`: where the times of programs go. */
  activeTimers: {name: string; query: Promise<number>}[] | null | undefined;
  supportTimestampQuery: boolean;
  querySet: GPUQuerySet | null;
  querySetCount: number;
  /** The milliseconds between the two timestamps of `querySet`; submits, unless timestamps are not supported. */
  getQueryTime(): Promise<number>;
  ensureCommandEncoderReady(): void;
  uploadToGPU(dataId: object): void;
  makeTensorInfo(shape: number[], dtype: DataType, values?: Float32Array): TensorInfo;
  disposeData(dataId: object, force?: boolean): boolean;
  endComputePassEncoder(): void;
  submitQueue(): void;
  read(dataId: object): Promise<unknown>;
  readSync(dataId: object): unknown;
  readToGPU(dataId: object): unknown;
}

/** The tensor's buffer, uploaded if it was still on the host. */
export function bufferOf(backend: WebGPUBackend, tensor: TensorInfo): GPUBuffer {
  backend.uploadToGPU(tensor.dataId);
  return backend.tensorMap.get(tensor.dataId).resource!;
}

/** Whether the tensor is zeros that never left the host. */
export function isHostZeros(backend: WebGPUBackend, {dataId}: TensorInfo): boolean {
  const {resource, values} = backend.tensorMap.get(dataId);
  return !resource && isUnusedGradient(values);
}

/** The entry of a tensor of this backend; `tensorMap.get` would move another's here. */
export function entryOf({tensorMap}: WebGPUBackend, dataId: object): TensorEntry | undefined {
  return tensorMap.has(dataId) ? tensorMap.get(dataId) : undefined;
}

/** Submits what tfjs has recorded, so that a submission of ours runs after it. */
export function submitRecorded(backend: WebGPUBackend): void {
  if (backend.commandEncoder === null) return;
  backend.endComputePassEncoder();
  backend.submitQueue();
}
