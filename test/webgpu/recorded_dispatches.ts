/** @file Which of this library's shaders a function dispatches on a device. tfjs's own bind groups have no labels. */

/** Calls `run`; returns its result and the keys of the shaders dispatched until it returned. */
export function recordDispatches<T>(device: GPUDevice, run: () => T): {keys: string[]; result: T} {
  const keys: string[] = [];
  const original = device.createBindGroup.bind(device);
  device.createBindGroup = (descriptor) => {
    if (descriptor.label) keys.push(descriptor.label);
    return original(descriptor);
  };
  try {
    return {result: run(), keys};
  } finally {
    device.createBindGroup = original;
  }
}
