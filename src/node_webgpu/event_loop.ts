/**
 * @file Makes Dawn a polite guest of Node's event loop.
 *
 * As long as a device lives, Dawn's Node binding calls itself by `setImmediate` without a pause: the process never
 * exits by itself, and the JavaScript thread takes a whole core, which a software adapter needs for the work. So
 * `setImmediate` hands Dawn's own callbacks to the poller below: at once while an answer is awaited and fresh, every
 * millisecond while it is slow, and rarely, without keeping the process alive, when nothing is awaited.
 */
/** What npm's `webgpu` exports. */
export interface Dawn {
  create(flags: string[]): GPU;
  globals: Record<string, unknown>;
}

/** For how long an answer is polled for without a pause: most answers of a GPU come sooner. */
const EAGER_MS = 2;
/** Pause between polls for a slow answer: small against the answer, large against a poll. */
const PATIENT_MS = 1;
/** Pause when nothing is awaited: what is left to notice then is a lost device or an uncaptured error. */
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

/** Runs Dawn's callbacks as often as what is awaited asks for. */
class Poller {
  private awaited = 0;
  private eagerUntil = 0;
  /** Idle callbacks with their timers, so that a new operation can hurry them. */
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
 * Destroys every device when the process exits: Dawn crashes where one still works while its driver is being unloaded.
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

/** Puts Dawn's polling under a {@link Poller}, unless that is done already. Call it before Dawn's first device. */
export function tameEventLoop(dawn: Dawn): void {
  if (TAMED in dawn.globals) {
    return;
  }
  Object.defineProperty(dawn.globals, TAMED, {value: true});
  const immediately = globalThis.setImmediate;
  const poller = new Poller(immediately);
  const polite = (callback: Callback, ...args: unknown[]) =>
    isAnonymousNative(callback) ? poller.schedule(callback) : immediately(callback, ...args);
  // Keeps what promisify reads off the function.
  Object.defineProperties(polite, Object.getOwnPropertyDescriptors(immediately));
  globalThis.setImmediate = polite as typeof setImmediate;
  for (const [type, names] of AWAITED) {
    const {prototype} = dawn.globals[type] as {prototype: Record<string, Method>};
    names.filter((name) => name in prototype).forEach((name) => followMethod(poller, prototype, name));
  }
  destroyDevicesAtExit(dawn);
}
