/** @file Counts what a device compiles. */

/** Compute pipelines made on `device` since this was called. */
export interface PipelineCount {
  count: number;
}

/** Watches the device for as long as it lives. */
export function countPipelines(device: GPUDevice): PipelineCount {
  const made: PipelineCount = {count: 0};
  const now = device.createComputePipeline.bind(device);
  const later = device.createComputePipelineAsync.bind(device);
  device.createComputePipeline = (descriptor) => {
    made.count++;
    return now(descriptor);
  };
  device.createComputePipelineAsync = (descriptor) => {
    made.count++;
    return later(descriptor);
  };
  return made;
}

/**
 * Switches off the disk caches of NVIDIA's and Mesa's Vulkan drivers, so that a process compiles what it uses. Before Dawn loads them.
 */
export function switchOffDriverCaches(): void {
  process.env.__GL_SHADER_DISK_CACHE = '0';
  process.env.MESA_SHADER_CACHE_DISABLE = 'true';
}
