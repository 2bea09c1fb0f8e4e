/**
 * @file Detects lost devices. tfjs keeps using a lost device as if nothing had happened, and once its backend is
 * removed it silently switches to the next backend. Here a loss is detected and reported with a remedy, and the user is
 * warned when another backend takes over.
 */
import {engine} from '@tensorflow/tfjs-core';
import {remember} from '../../../call/remember.js';
import type {WebGPUBackend} from '../run/tfjs_backend.js';

/** Why a device was lost; null while no loss is known. */
interface Fate {
  lost: string | null;
}

interface State {
  fates: WeakMap<GPUDevice, Fate>;
  /** The backend whose replacement must be announced, and why it is replaced. */
  gone?: {name: string; why: string};
}

const STATE = Symbol.for('tfjs-flashmask.losses');
const globals = globalThis as {[STATE]?: State};

/**
 * Stored globally: in Node the module that makes the device and the one with the kernels may be copies of each other.
 */
const state: State = (globals[STATE] ??= {fates: new WeakMap()});

const fateOf = (device: GPUDevice): Fate =>
  remember(state.fates, device, () => {
    const fate: Fate = {lost: null};
    void device.lost.then(({reason, message}) => {
      fate.lost = [reason, message].filter(Boolean).join(': ');
    });
    return fate;
  });

/**
 * Why the device was lost, or null if no loss is known yet. The first call only starts to watch the device, so it may
 * miss a loss: see {@link askLoss}.
 */
export function lossOf(device: GPUDevice): string | null {
  return fateOf(device).lost;
}

/** Asks the device itself whether it is lost. Resolves to the reason, or to null. */
export async function askLoss(device: GPUDevice): Promise<string | null> {
  const fate = fateOf(device);
  device.pushErrorScope('validation');
  await device.popErrorScope().catch(() => null);
  // The loss may be reported together with the answer instead of before it.
  await new Promise((resolve) => setTimeout(resolve));
  return fate.lost;
}

/** The device of the backend that is in use under a name, if it has one. */
export function deviceOf(name: string): GPUDevice | undefined {
  const {device} = (engine().registry[name] ?? {}) as {device?: GPUDevice};
  return device?.lost && device;
}

/** The name that tfjs has for a backend, or undefined once it is removed. */
function nameOf(backend: WebGPUBackend): string | undefined {
  return Object.entries(engine().registry).find(([, other]) => other === (backend as unknown))?.[0];
}

/** @example "Call `await useWebGPU()` again ..." */
function remedyFor(name: string): string {
  const inNode = typeof process !== 'undefined' && Boolean(process.versions?.node);
  const own = name === 'webgpu' ? 'createWebGPUBackend()' : `createWebGPUBackend({name: '${name}'})`;
  const call = inNode && name === 'webgpu' ? 'useWebGPU()' : own;
  return `Call \`await ${call}\`, which makes a new device and registers '${name}' on it, and load the model again.`;
}

/** The error of a call or a read on a backend whose device was lost. */
export function lossError(backend: WebGPUBackend, why: string, options?: ErrorOptions): Error {
  return new Error(
    `flashMaskAttention: the WebGPU device was lost (${why}), and with it its tensors. ` +
      remedyFor(nameOf(backend) ?? 'webgpu'),
    options,
  );
}

/** If the device of the current backend is lost, warns the user which backend tfjs continues with. */
export function announceLoss(backend: WebGPUBackend): void {
  const fate = fateOf(backend.device);
  void backend.device.lost.then(() => {
    const name = nameOf(backend);
    if (name !== undefined && name === engine().backendName) announceNext(name, `its device was lost (${fate.lost})`);
  });
}

/**
 * Warns once if tfjs continues with a backend that is not on a WebGPU device. tfjs picks the backend by priority,
 * within any op. Every backend that becomes current passes through `setBackend` of its engine, which is wrapped here.
 */
export function announceNext(name: string, why: string): void {
  const tfjs = engine();
  const announced = state.gone !== undefined;
  state.gone = {name, why};
  if (announced) return;
  const setBackend = tfjs.setBackend.bind(tfjs);
  tfjs.setBackend = async (next) => {
    const done = await setBackend(next);
    const device = deviceOf(next);
    if (!done || !state.gone || (device && lossOf(device) !== null)) return done;
    const {name, why} = state.gone;
    state.gone = undefined;
    delete (tfjs as Partial<typeof tfjs>).setBackend;
    if (!device) {
      console.warn(
        `tfjs-flashmask: tfjs goes on with the backend '${next}', not '${name}': ${why}. ${remedyFor(name)}`,
      );
    }
    return done;
  };
}
