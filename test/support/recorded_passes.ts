/** @file Which compute passes and dispatches a function records on a device. */

/** Calls `run`; returns its result and the labels of the compute passes recorded until it returned. */
export function recordPasses<T>(device: GPUDevice, run: () => T): {labels: string[]; result: T} {
  const labels: string[] = [];
  const original = device.createCommandEncoder.bind(device);
  device.createCommandEncoder = (descriptor) => {
    const encoder = original(descriptor);
    const begin = encoder.beginComputePass.bind(encoder);
    encoder.beginComputePass = (pass) => {
      labels.push(pass?.label ?? '');
      return begin(pass);
    };
    return encoder;
  };
  try {
    return {result: run(), labels};
  } finally {
    device.createCommandEncoder = original;
  }
}

/** The number of dispatches that `run` records, in compute passes that it begins. */
export function countDispatches(device: GPUDevice, run: () => unknown): number {
  let count = 0;
  const original = device.createCommandEncoder.bind(device);
  device.createCommandEncoder = (descriptor) => {
    const encoder = original(descriptor);
    const begin = encoder.beginComputePass.bind(encoder);
    encoder.beginComputePass = (passDescriptor) => {
      const pass = begin(passDescriptor);
      const dispatch = pass.dispatchWorkgroups.bind(pass);
      pass.dispatchWorkgroups = (...sizes) => {
        count++;
        dispatch(...sizes);
      };
      return pass;
    };
    return encoder;
  };
  try {
    run();
    return count;
  } finally {
    device.createCommandEncoder = original;
  }
}
