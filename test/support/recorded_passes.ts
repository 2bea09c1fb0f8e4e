/** @file Which compute passes a piece of work records on a device. */

/** Runs `run`; its result, and the labels of the compute passes that it recorded until it returned. */
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
