/** @file The bytes of a buffer that a shader can access through one storage binding of a device. */

const lowered = new WeakMap<GPUDevice, number>();

/** Bytes that one storage binding of the device may cover. */
export function bindingLimit(device: GPUDevice): number {
  const {maxStorageBufferBindingSize, maxBufferSize} = device.limits;
  return Math.min(maxStorageBufferBindingSize, maxBufferSize, lowered.get(device) ?? Infinity);
}

/** For tests: makes small tensors too large to bind. Null restores the device's own limit. */
export function lowerBindingLimit(device: GPUDevice, bytes: number | null): void {
  if (bytes === null) lowered.delete(device);
  else lowered.set(device, bytes);
}
