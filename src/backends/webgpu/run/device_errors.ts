/**
 * @file Makes device errors reach the user. tfjs-backend-webgpu swallows them: if a shader does not compile, a bind
 * group does not fit or a buffer cannot be allocated, the result is a tensor of garbage and an event that nobody
 * listens to. Here kernels that make something run within error scopes, and so does a submission of our passes together
 * with tfjs's commands. Reading a tensor that was made after a failure throws its error.
 */
import {remember} from '../../../call/remember.js';
import {entryOf, submitRecorded, type WebGPUBackend, type WebGPUDataId} from './tfjs_backend.js';
import {bindingLimit, limitsOf} from './size_limits.js';
import {announceLoss, askLoss, lossError, lossOf} from '../device/loss.js';
import type {TensorInfo} from '@tensorflow/tfjs-core';

/** Tensors whose data may depend on what failed: those with data ids from `first` to `last`. */
interface Failure {
  first: number;
  last: number;
  message: string;
}

interface Watch {
  /** Error scopes that the device has not answered yet. */
  pending: Set<Promise<void>>;
  failures: Failure[];
  /** Whether the commands that are being recorded, outside of error scopes, may be those of kernels. */
  shared?: boolean;
  /** The newest data id at the last submission. */
  submitted: number;
}

const WATCHES = Symbol.for('tfjs-flashmask.watches');
const globals = globalThis as {[WATCHES]?: WeakMap<WebGPUBackend, Watch>};

/**
 * Stored globally: in Node the module that makes the backend and the one with the kernels may be copies of each other.
 */
const watches = (globals[WATCHES] ??= new WeakMap());

const SCOPES: readonly GPUErrorFilter[] = ['validation', 'out-of-memory', 'internal'];

/** A method of a device: it opens the error scopes of the kernel that runs, if that has made nothing yet. */
const OPEN = Symbol.for('tfjs-flashmask.open');
type Watched = GPUDevice & {[OPEN]?: (() => void) | null};

/** The methods of a device by which a kernel makes something new. A pipeline begins with its layout. */
const MAKERS = ['createBuffer', 'createBindGroupLayout', 'createBindGroup'];

/**
 * Runs `body`, which records GPU work for a kernel, and returns its outputs. If the device reports an error for that
 * work, it is thrown when an output, or any tensor made later, is read.
 *
 * Only a kernel that makes something can fail: its commands are then submitted alone and within error scopes. A kernel
 * whose buffers, pipelines and bind groups exist has run with them before.
 *
 * @throws Error at once if the device is lost.
 */
export function guarded(backend: WebGPUBackend, kernel: string, body: () => TensorInfo[]): TensorInfo[] {
  const watch = watchBackend(backend);
  const device: Watched = backend.device;
  throwIfLost(backend);
  device[OPEN] = () => {
    device[OPEN] = null;
    submitRecorded(backend);
    watch.shared = false;
    for (const scope of SCOPES) device.pushErrorScope(scope);
  };
  watch.shared = true;
  // What failed may have left invalid objects behind. tf.time() makes buffers when it is too late to submit before.
  if (watch.failures.length > 0 || backend.activeTimers) device[OPEN]();
  let outputs: TensorInfo[] = [];
  try {
    outputs = body();
  } finally {
    if (device[OPEN]) device[OPEN] = null;
    else {
      submitRecorded(backend);
      closeScopes(backend, watch, SCOPES, kernel, Math.min(...outputs.map(idOf)), outputs);
    }
  }
  return outputs;
}

/** Pops the scopes. Tensors with data ids from `first` on get their errors. */
function closeScopes(
  backend: WebGPUBackend,
  watch: Watch,
  scopes: readonly GPUErrorFilter[],
  what: string,
  first: number,
  outputs: TensorInfo[] = [],
): void {
  // Scopes nest: the last pushed is popped first.
  for (const scope of [...scopes].reverse()) {
    const pending = backend.device.popErrorScope().then(
      (error) => {
        if (!error) return;
        const noRoom = scope === 'out-of-memory';
        watch.failures.push({
          first,
          last: Infinity,
          message:
            `flashMaskAttention: ${what} failed on the WebGPU device (${scope}): ${error.message}` +
            (noRoom ? ' Free tensors (tf.tidy, dispose) or use a shorter sequence or a smaller batch.' : ''),
        });
        if (noRoom) outputs.forEach((output) => discardBuffer(backend, output));
      },
      () => {}, // A lost device answers no scopes; the loss itself is reported.
    );
    watch.pending.add(pending);
    void pending.finally(() => watch.pending.delete(pending));
  }
}

/**
 * Opens an error scope around each submission that may hold passes of kernels that opened none: an invalid command of
 * tfjs makes all commands submitted with it fail.
 */
function checkSubmissions(backend: WebGPUBackend, watch: Watch): void {
  const device: Watched = backend.device;
  const submit = backend.submitQueue.bind(backend);
  backend.submitQueue = () => {
    const {shared, submitted} = watch;
    if (shared) device.pushErrorScope('validation');
    submit();
    watch.submitted = newestId(backend);
    if (shared) closeScopes(backend, watch, ['validation'], 'tfjs', submitted);
    // A long kernel submits more than once.
    watch.shared = !!device[OPEN];
  };
}

/** Makes a device open the error scopes of the kernel that runs, before it makes anything. */
function noticeMaking(device: Watched): void {
  // A device may get another backend, after tf.engine().reset().
  if (OPEN in device) return;
  device[OPEN] = null;
  const methods = device as unknown as Record<string, (descriptor: unknown) => unknown>;
  for (const name of MAKERS) {
    const make = methods[name].bind(device);
    methods[name] = (descriptor) => {
      device[OPEN]?.();
      return make(descriptor);
    };
  }
}

/**
 * Watches a backend from now on: its reads throw the errors that its device reported, and a loss of the device is
 * noticed. Further calls do nothing.
 */
export const watchBackend = (backend: WebGPUBackend): Watch =>
  remember(watches, backend, () => {
    const watch: Watch = {pending: new Set(), failures: [], submitted: 0};
    announceLoss(backend);
    noticeMaking(backend.device);
    checkSubmissions(backend, watch);
    checkReads(backend, watch);
    return watch;
  });

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
    // Otherwise the read would submit it, after it has asked for errors.
    if (watch.shared) submitRecorded(backend);
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
  // One cause may have several errors. It is now reported; do not blame tensors made after it.
  const newest = newestId(backend);
  for (const each of watch.failures) each.last = Math.min(each.last, newest);
  throw new Error(failure.message);
}

const idOf = ({dataId}: TensorInfo): number => (dataId as WebGPUDataId).id;

function newestId(backend: WebGPUBackend): number {
  const info = backend.makeTensorInfo([], 'float32');
  backend.disposeData(info.dataId);
  return idOf(info);
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
 * @param name Of the buffer, in errors.
 * @param remedy What the caller can do besides creating another device.
 * @throws Error naming the buffer, its bytes and the limit.
 */
export function checkBindable(
  device: GPUDevice,
  name: string,
  bytes: number,
  remedy = 'Split the batch or the heads over several calls',
): void {
  const limit = bindingLimit(device);
  if (bytes > limit) {
    throw new Error(
      `flashMaskAttention: ${name} must fit one WebGPU storage binding, got ${bytes} bytes on a device that binds ${limit}. ` +
        `${remedy}, or create the device with the adapter's maxStorageBufferBindingSize.`,
    );
  }
}

/**
 * Throws if a tensor is larger than a buffer of the device may be, before anything runs.
 *
 * @throws Error naming the tensor, its bytes and the limit.
 */
export function checkBuffer(device: GPUDevice, name: string, bytes: number): void {
  const {maxBufferSize} = limitsOf(device);
  if (bytes > maxBufferSize) {
    throw new Error(
      `flashMaskAttention: ${name} must fit one WebGPU buffer, got ${bytes} bytes on a device whose buffers hold ${maxBufferSize}. ` +
        `Split the batch or the heads over several calls, or create the device with the adapter's maxBufferSize.`,
    );
  }
}
