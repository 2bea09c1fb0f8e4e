/** @file Whether a WebGPU adapter computes on the CPU. */

/** Judged by what the adapter says about itself. False where it says nothing, as some browsers do. */
export function isSoftwareAdapter(info: Partial<GPUAdapterInfo> = {}): boolean {
  const {isFallbackAdapter = false, architecture = '', description = ''} = info;
  return isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|warp|basic render/i.test(`${architecture} ${description}`);
}
