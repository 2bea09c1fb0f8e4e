/**
 * @file The members of tfjs-backend-webgpu 4.22 that the kernels use, in one place: tensors to buffers, the buffer
 * pool, and reads. Some of them are private in TypeScript, but plain properties at run time.
 */
import type {DataType, TensorInfo} from '@tensorflow/tfjs-core';
import {isUnusedGradient} from './unused_gradient.js';

export interface BufferPool {
  acquireBuffer(size: number, usage: number): GPUBuffer;
  /** Gives a buffer back for reuse, or destroys it when `reuse` is false. */
  releaseBuffer(buffer: GPUBuffer, reuse?: boolean): void;
}

/**
 * A tensor's entry: `resource` is its buffer once it is on the device, `values` its values while the host still holds
 * them.
 */
export interface TensorEntry {
  resource?: GPUBuffer | null;
  values?: ArrayLike<unknown> | null;
}

/** Identity of a tensor's data. The backend numbers these in the order of their creation. */
export interface WebGPUDataId {
  id: number;
}

/** The members of tfjs-backend-webgpu's `WebGPUBackend` that are used here. */
export interface WebGPUBackend {
  device: GPUDevice;
  queue: GPUQueue;
  bufferManager: BufferPool;
  tensorMap: {get(dataId: object): TensorEntry; has(dataId: object): boolean};
  /** Commands recorded but not submitted yet; null when there are none. */
  commandEncoder: GPUCommandEncoder | null;
  /** The open pass of these commands, and the number of dispatches: tfjs submits when there are many. */
  computePassEncoder: GPUComputePassEncoder | null;
  dispatchCountInPass: number;
  /** A buffer with the values, which have the alignment of WGSL. */
  makeUniforms(uniforms: readonly {type: 'uint32'; data: number[]}[]): GPUBufferBinding;
  /** Whether tfjs has disposed the backend, by tf.engine().reset() or tf.removeBackend(). */
  disposed: boolean;
  /** Pipelines by key, or promises of those that are still being compiled. */
  pipelineCache: Record<string, GPUComputePipeline | Promise<GPUComputePipeline>>;
  /** Waits for the promises in `pipelineCache`. */
  checkCompileCompletionAsync(): Promise<void>;
  /** Receives the times of programs within `tf.time()`. */
  activeTimers: {name: string; query: Promise<number>}[] | null | undefined;
  supportTimestampQuery: boolean;
  querySet: GPUQuerySet | null;
  querySetCount: number;
  /**
   * Returns the milliseconds between the two timestamps of `querySet`. If timestamps are supported, it also submits.
   */
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
export function bufferOf(backend: WebGPUBackend, {dataId}: TensorInfo): GPUBuffer {
  const entry = backend.tensorMap.get(dataId);
  if (!entry.resource) {
    const {values} = entry;
    backend.uploadToGPU(dataId);
    // Apart from the commands that follow: an invalid one of them would take the upload with it.
    if (values) submitRecorded(backend);
  }
  return entry.resource!;
}

/** Whether the tensor consists of zeros that never left the host. */
export function isHostZeros(backend: WebGPUBackend, {dataId}: TensorInfo): boolean {
  const {resource, values} = backend.tensorMap.get(dataId);
  return !resource && isUnusedGradient(values);
}

/** The entry of a tensor, or undefined if the tensor is on another backend: `tensorMap.get` would move it here. */
export function entryOf({tensorMap}: WebGPUBackend, dataId: object): TensorEntry | undefined {
  return tensorMap.has(dataId) ? tensorMap.get(dataId) : undefined;
}

/** Submits all commands that are recorded, tfjs's and ours. */
export function submitRecorded(backend: WebGPUBackend): void {
  if (backend.commandEncoder === null) return;
  backend.endComputePassEncoder();
  backend.submitQueue();
}
