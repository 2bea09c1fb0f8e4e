/** @file How many bytes of a buffer a shader of a device can reach through one storage binding. */

const lowered = new WeakMap<GPUDevice, number>();

/** Bytes that one storage binding of the device may cover. */
export function bindingLimit(device: GPUDevice): number {
  const {maxStorageBufferBindingSize, maxBufferSize} = device.limits;
  return Math.min(maxStorageBufferBindingSize, maxBufferSize, lowered.get(device) ?? Infinity);
}

/** For tests: makes small tensors too large to bind. Null takes the device's own limit again. */
export function lowerBindingLimit(device: GPUDevice, bytes: number | null): void {
  if (bytes === null) lowered.delete(device);
  else lowered.set(device, bytes);
}
