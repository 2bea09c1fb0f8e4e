/**
 * @file Keeps Dawn from blocking Node's event loop.
 *
 * While a device exists, Dawn's Node binding calls itself by `setImmediate` without a pause. So the process never exits
 * by itself, and the JavaScript thread occupies a whole core that a software adapter needs. Here `setImmediate` hands
 * Dawn's callbacks to a poller. It polls without a pause right after an operation starts, every millisecond if the
 * answer is slow, and rarely, without keeping the process alive, if nothing is awaited.
 */
/** The exports of npm's `webgpu`. */
export interface Dawn {
  create(flags: string[]): GPU;
  globals: Record<string, unknown>;
}

/** Time for which an answer is polled without a pause. Most answers of a GPU come sooner. */
const EAGER_MS = 2;
/** Pause between polls for a slow answer: short compared with the answer, long compared with a poll. */
const PATIENT_MS = 1;
/** Pause when nothing is awaited. Polling then only notices a lost device or an uncaptured error. */
const IDLE_MS = 20;

/** Methods whose promises are answered by polling. */
const AWAITED: [string, string[]][] = [
  ['GPU', ['requestAdapter']],
  ['GPUAdapter', ['requestDevice']],
  ['GPUBuffer', ['mapAsync']],
  ['GPUQueue', ['onSubmittedWorkDone']],
  ['GPUDevice', ['createComputePipelineAsync', 'createRenderPipelineAsync', 'popErrorScope']],
  ['GPUShaderModule', ['getCompilationInfo']],
];

type Callback = (...args: unknown[]) => void;
type Method = (this: unknown, ...args: unknown[]) => Promise<unknown>;

const NATIVE_SOURCE = 'function () { [native code] }';

/** Dawn's callbacks are anonymous functions of an addon; bound functions have no prototype. */
function isAnonymousNative(callback: Callback): boolean {
  return (
    callback.name === '' && 'prototype' in callback && Function.prototype.toString.call(callback) === NATIVE_SOURCE
  );
}

/** Runs Dawn's callbacks as often as the awaited operations need. */
class Poller {
  private awaited = 0;
  private eagerUntil = 0;
  /** Idle callbacks with their timers, so that a new operation can run them at once. */
  private readonly idle = new Map<Callback, NodeJS.Timeout>();

  constructor(private readonly immediately: typeof setImmediate) {}

  schedule(callback: Callback): void {
    if (this.awaited === 0) {
      const run = () => {
        this.idle.delete(callback);
        callback();
      };
      this.idle.set(callback, setTimeout(run, IDLE_MS).unref());
    } else if (performance.now() < this.eagerUntil) {
      this.immediately(callback);
    } else {
      setTimeout(callback, PATIENT_MS);
    }
  }

  /** Keeps the process alive and polls eagerly until `operation`'s promise is settled. */
  follow(operation: () => Promise<unknown>): Promise<unknown> {
    this.awaited++;
    this.eagerUntil = performance.now() + EAGER_MS;
    const waiting = [...this.idle];
    this.idle.clear();
    for (const [callback, timer] of waiting) {
      clearTimeout(timer);
      this.immediately(callback);
    }
    const settled = () => {
      this.awaited--;
    };
    try {
      const promise = operation();
      promise.then(settled, settled);
      return promise;
    } catch (error) {
      settled();
      throw error;
    }
  }
}

function followMethod(poller: Poller, prototype: Record<string, Method>, name: string): void {
  const method = prototype[name];
  prototype[name] = function (...args) {
    return poller.follow(() => method.apply(this, args));
  };
}

/**
 * Destroys every device when the process exits, because Dawn crashes if a device still works while its driver is
 * unloaded.
 */
function destroyDevicesAtExit(dawn: Dawn): void {
  const devices = new Set<GPUDevice>();
  const {prototype} = dawn.globals.GPUAdapter as {prototype: Record<string, Method>};
  const {requestDevice} = prototype;
  prototype.requestDevice = async function (...args) {
    const device = (await requestDevice.apply(this, args)) as GPUDevice;
    devices.add(device);
    void device.lost.then(() => devices.delete(device));
    return device;
  };
  process.once('exit', () => devices.forEach((device) => device.destroy()));
}

/** Set on Dawn's globals once they are wrapped. */
const TAMED = Symbol.for('tfjs-flashmask.tameEventLoop');

/** Puts Dawn's polling under a {@link Poller}, once. Call it before Dawn's first device. */
export function tameEventLoop(dawn: Dawn): void {
  if (TAMED in dawn.globals) {
    return;
  }
  Object.defineProperty(dawn.globals, TAMED, {value: true});
  const immediately = globalThis.setImmediate;
  const poller = new Poller(immediately);
  const polite = (callback: Callback, ...args: unknown[]) =>
    isAnonymousNative(callback) ? poller.schedule(callback) : immediately(callback, ...args);
  // Keeps the properties of the function that promisify reads.
  Object.defineProperties(polite, Object.getOwnPropertyDescriptors(immediately));
  globalThis.setImmediate = polite as typeof setImmediate;
  for (const [type, names] of AWAITED) {
    const {prototype} = dawn.globals[type] as {prototype: Record<string, Method>};
    names.filter((name) => name in prototype).forEach((name) => followMethod(poller, prototype, name));
  }
  destroyDevicesAtExit(dawn);
}
