/**
 * @file Makes device errors reach the user. tfjs-backend-webgpu swallows them: if a shader does not compile, a bind
 * group does not fit or a buffer cannot be allocated, the result is a tensor of garbage and an event that nobody
 * listens to. Here every kernel runs inside error scopes, and reading a tensor that was made after a failed kernel
 * throws the kernel's error.
 */
import {entryOf, type WebGPUBackend, type WebGPUDataId} from './tfjs_backend.js';
import {bindingLimit} from './size_limits.js';
import {announceLoss, askLoss, lossError, lossOf} from '../device/loss.js';
import type {TensorInfo} from '@tensorflow/tfjs-core';

/** Tensors whose data may depend on a failed kernel: those with data ids from `first` to `last`. */
interface Failure {
  first: number;
  last: number;
  message: string;
}

interface Watch {
  /** Error scopes that the device has not answered yet. */
  pending: Set<Promise<void>>;
  failures: Failure[];
}

const WATCHES = Symbol.for('tfjs-flashmask.watches');
const globals = globalThis as {[WATCHES]?: WeakMap<WebGPUBackend, Watch>};

/**
 * Stored globally: in Node the module that makes the backend and the one with the kernels may be copies of each other.
 */
const watches = (globals[WATCHES] ??= new WeakMap());

const SCOPES = ['validation', 'out-of-memory', 'internal'] as const;

/**
 * Runs `body`, which records and submits GPU work for a kernel, and returns its outputs. If the device reports an error
 * for that work, it is thrown when an output, or any tensor made later, is read.
 *
 * @throws Error at once if the device is lost.
 */
export function guarded(backend: WebGPUBackend, kernel: string, body: () => TensorInfo[]): TensorInfo[] {
  const watch = watchBackend(backend);
  const {device} = backend;
  throwIfLost(backend);
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

/**
 * Watches a backend from now on: its reads throw the errors that its device reported, and a loss of the device is
 * noticed. Further calls do nothing.
 */
export function watchBackend(backend: WebGPUBackend): Watch {
  let watch = watches.get(backend);
  if (!watch) {
    watch = {pending: new Set(), failures: []};
    watches.set(backend, watch);
    announceLoss(backend);
    checkReads(backend, watch);
  }
  return watch;
}

function throwIfLost(backend: WebGPUBackend): void {
  const why = lossOf(backend.device);
  if (why !== null) throw lossError(backend, why);
}

/**
 * Makes the three read methods of a backend throw device errors. Tensor.data(), dataToGPU() and dataSync() call them,
 * and so does tfjs when it moves a tensor to another backend. Only `read` can wait for the error scopes.
 */
function checkReads(backend: WebGPUBackend, watch: Watch): void {
  const read = backend.read.bind(backend);
  backend.read = async (dataId) => {
    await Promise.all(watch.pending);
    throwIfFailed(backend, watch, dataId as WebGPUDataId);
    try {
      const values = await read(dataId);
      // tfjs may read destroyed buffers as zeros.
      if (!backend.disposed) return values;
      throw new Error('disposed');
    } catch (error) {
      throw await explained(backend, error);
    }
  };
  const readToGPU = backend.readToGPU.bind(backend);
  backend.readToGPU = (dataId) => {
    throwIfFailed(backend, watch, dataId as WebGPUDataId);
    return readToGPU(dataId);
  };
  const readSync = backend.readSync.bind(backend);
  backend.readSync = (dataId) => {
    throwIfFailed(backend, watch, dataId as WebGPUDataId);
    const {resource, values} = entryOf(backend, dataId) ?? {};
    if (resource && !values && typeof OffscreenCanvas === 'undefined') {
      throw new Error(
        'tfjs-flashmask: a WebGPU tensor can be read synchronously (dataSync(), or an op on another backend) only where ' +
          'OffscreenCanvas exists, got none. Call `await tensor.data()` before: what has been read once is kept on the host.',
      );
    }
    return readSync(dataId);
  };
}

/** The error of a failed read. The browser's own error does not say that the device is gone. */
async function explained(backend: WebGPUBackend, error: unknown): Promise<unknown> {
  const why = await askLoss(backend.device);
  if (why !== null) return lossError(backend, why, {cause: error});
  if (!backend.disposed) return error;
  return new Error(
    'tfjs-flashmask: a tensor cannot be read once its backend is gone, got one of a WebGPU backend that tf.engine().reset() ' +
      'or tf.removeBackend() has disposed. Await reads before, or make the tensor again.',
    {cause: error},
  );
}

function throwIfFailed(backend: WebGPUBackend, watch: Watch, dataId: WebGPUDataId): void {
  // Values that the host still holds survive the device.
  if (entryOf(backend, dataId)?.values) return;
  throwIfLost(backend);
  const failure = watch.failures.find(({first, last}) => first <= dataId.id && dataId.id <= last);
  if (!failure) return;
  // This error is now reported; do not blame tensors made after it.
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

/** Keeps a buffer that could not be allocated out of the pool, where the next kernel would get it. */
function discardBuffer(backend: WebGPUBackend, {dataId}: TensorInfo): void {
  const entry = entryOf(backend, dataId);
  if (!entry) return;
  if (entry.resource) backend.bufferManager.releaseBuffer(entry.resource, false);
  entry.resource = null;
}

/**
 * Throws if the device cannot bind a buffer or a range of one, before anything runs.
 *
 * @param bytes Bytes of each buffer, by its name in errors.
 * @param remedy What the caller can do besides creating another device.
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
 * Throws if a tensor is larger than a buffer of the device may be, before anything runs.
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
