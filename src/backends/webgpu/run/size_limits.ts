/** @file The limits of a device: on buffers, and on what a shader can access of one through a storage binding. */
import {remember} from '../../../call/remember.js';

const limits = new WeakMap<GPUDevice, GPUSupportedLimits>();

/** The device's limits, read once: each is a call into the driver, or in Node into Dawn. */
export const limitsOf = (device: GPUDevice): GPUSupportedLimits =>
  remember(limits, device, () => {
    const read: Record<string, unknown> = {};
    // They are getters of the prototype, which Object.entries leaves out.
    for (const name in device.limits) read[name] = device.limits[name as keyof GPUSupportedLimits];
    return read as unknown as GPUSupportedLimits;
  });

const lowered = new WeakMap<GPUDevice, number>();

/** Bytes that one storage binding of the device may cover. */
export function bindingLimit(device: GPUDevice): number {
  const {maxStorageBufferBindingSize, maxBufferSize} = limitsOf(device);
  return Math.min(maxStorageBufferBindingSize, maxBufferSize, lowered.get(device) ?? Infinity);
}

/** For tests: makes small tensors too large to bind. Null restores the device's own limit. */
export function lowerBindingLimit(device: GPUDevice, bytes: number | null): void {
  if (bytes === null) lowered.delete(device);
  else lowered.set(device, bytes);
}
