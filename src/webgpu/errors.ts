/**
 * @file Makes errors of the device reach the user. tfjs-backend-webgpu swallows them: a shader that does not compile, a bind group
 * that does not fit or a buffer that could not be had give a tensor of garbage and an event that nobody listens to. Here every
 * kernel runs inside error scopes, and whoever reads a tensor that was made after a failed kernel gets its error.
 */
import {type WebGPUBackend, type WebGPUDataId} from './backend.js';
import {bindingLimit} from './binding_limit.js';
import type {TensorInfo} from '@tensorflow/tfjs-core';

/** Tensors whose data may rest on a failed kernel: those numbered from `first` to `last` at their making. */
interface Failure {
  first: number;
  last: number;
  message: string;
}

interface Watch {
  /** Error scopes that the device has not answered yet. */
  pending: Set<Promise<void>>;
  failures: Failure[];
  lost: string | null;
}

const watches = new WeakMap<WebGPUBackend, Watch>();

const SCOPES = ['validation', 'out-of-memory', 'internal'] as const;

/**
 * Runs `body`, which records and submits GPU work for a kernel, and returns its outputs. Whatever the device finds wrong with
 * that work is thrown when an output, or any tensor made after it, is read.
 *
 * @throws Error at once if the device is lost.
 */
export function guarded(backend: WebGPUBackend, kernel: string, body: () => TensorInfo[]): TensorInfo[] {
  const watch = watchOf(backend);
  if (watch.lost !== null) throw new Error(lostMessage(watch.lost));
  const {device} = backend;
  for (const scope of SCOPES) device.pushErrorScope(scope);
  let outputs: TensorInfo[] = [];
  try {
    outputs = body();
  } finally {
    // Scopes nest: the last pushed is popped first.
    const answers = [...SCOPES]
      .reverse()
      .map((scope) => device.popErrorScope().then((error) => error && {scope, error}));
    const pending = Promise.all(answers).then(
      (errors) => {
        const found = errors.find((e) => e !== null);
        if (found) fail(backend, watch, kernel, found.scope, found.error.message, outputs);
      },
      () => {}, // A lost device answers no scopes; the loss itself is reported.
    );
    watch.pending.add(pending);
    void pending.finally(() => watch.pending.delete(pending));
  }
  return outputs;
}

function watchOf(backend: WebGPUBackend): Watch {
  let watch = watches.get(backend);
  if (!watch) {
    watch = {pending: new Set(), failures: [], lost: null};
    watches.set(backend, watch);
    watchLoss(backend.device, watch);
    checkReads(backend, watch);
  }
  return watch;
}

function watchLoss(device: GPUDevice, watch: Watch): void {
  void device.lost.then(({reason, message}) => {
    watch.lost = [reason, message].filter(Boolean).join(': ');
  });
}

const lostMessage = (why: string): string =>
  `flashMaskAttention: the WebGPU device was lost (${why}). Its tensors are gone: remove the backend with ` +
  `tf.removeBackend('webgpu'), register it again and load the model anew.`;

/** Tensor.data() and Tensor.dataToGPU() go through these two methods of the backend: they wait for the scopes first. */
function checkReads(backend: WebGPUBackend, watch: Watch): void {
  const read = backend.read.bind(backend);
  backend.read = async (dataId) => {
    await Promise.all(watch.pending);
    throwIfFailed(backend, watch, dataId as WebGPUDataId);
    try {
      return await read(dataId);
    } catch (error) {
      throw watch.lost === null ? error : new Error(lostMessage(watch.lost), {cause: error});
    }
  };
  const readToGPU = backend.readToGPU.bind(backend);
  backend.readToGPU = (dataId) => {
    throwIfFailed(backend, watch, dataId as WebGPUDataId);
    return readToGPU(dataId);
  };
}

function throwIfFailed(backend: WebGPUBackend, watch: Watch, {id}: WebGPUDataId): void {
  if (watch.lost !== null) throw new Error(lostMessage(watch.lost));
  const failure = watch.failures.find(({first, last}) => first <= id && id <= last);
  if (!failure) return;
  // What is made from here on was made by somebody who knows.
  if (failure.last === Infinity) failure.last = newestId(backend);
  throw new Error(failure.message);
}

function newestId(backend: WebGPUBackend): number {
  const {dataId} = backend.makeTensorInfo([0], 'float32', new Float32Array(0));
  backend.disposeData(dataId);
  return (dataId as WebGPUDataId).id;
}

function fail(
  backend: WebGPUBackend,
  watch: Watch,
  kernel: string,
  scope: (typeof SCOPES)[number],
  message: string,
  outputs: TensorInfo[],
): void {
  const first = Math.min(...outputs.map(({dataId}) => (dataId as WebGPUDataId).id));
  const remedy =
    scope === 'out-of-memory' ? ' Free tensors (tf.tidy, dispose) or use a shorter sequence or a smaller batch.' : '';
  watch.failures.push({
    first,
    last: Infinity,
    message: `flashMaskAttention: ${kernel} failed on the WebGPU device (${scope}): ${message}${remedy}`,
  });
  if (scope === 'out-of-memory') outputs.forEach((output) => discardBuffer(backend, output));
}

/** A buffer that could not be allocated must not go back to the pool, where the next kernel would find it. */
function discardBuffer(backend: WebGPUBackend, {dataId}: TensorInfo): void {
  if (!backend.tensorMap.has(dataId)) return;
  const entry = backend.tensorMap.get(dataId);
  if (entry.resource) backend.bufferManager.releaseBuffer(entry.resource, false);
  entry.resource = null;
}

/**
 * Refuses buffers, or parts of them, that the device cannot bind, before anything runs.
 *
 * @param bytes of each, by the name that the error gives it.
 * @param remedy what the caller can do, besides another device.
 * @throws Error naming the buffer, its bytes and the limit.
 */
export function checkBindable(
  device: GPUDevice,
  bytes: Record<string, number>,
  remedy = 'Split the batch or the heads over several calls',
): void {
  const limit = bindingLimit(device);
  for (const [name, size] of Object.entries(bytes)) {
    if (size > limit) {
      throw new Error(
        `flashMaskAttention: ${name} must fit one WebGPU storage binding, got ${size} bytes on a device that binds ${limit}. ` +
          `${remedy}, or create the device with the adapter's maxStorageBufferBindingSize.`,
      );
    }
  }
}

/**
 * Refuses a tensor that is larger than the device's buffers, before anything runs.
 *
 * @throws Error naming the tensor, its bytes and the limit.
 */
export function checkBuffer(device: GPUDevice, name: string, bytes: number): void {
  const {maxBufferSize} = device.limits;
  if (bytes > maxBufferSize) {
    throw new Error(
      `flashMaskAttention: ${name} must fit one WebGPU buffer, got ${bytes} bytes on a device whose buffers hold ${maxBufferSize}. ` +
        `Split the batch or the heads over several calls, or create the device with the adapter's maxBufferSize.`,
    );
  }
}
