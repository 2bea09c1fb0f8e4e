// Kernels that start while the kernel before them ends (programmatic dependent launch), which sm_90 has. They must wait
// for it before they touch memory that it reads or writes.
#pragma once

#include <cuda_runtime.h>

namespace flashmask::cuda {

// Waits until the kernel before is done, and all that it has waited for.
__device__ inline void WaitForKernelBefore() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
  cudaGridDependencySynchronize();
#endif
}

// Lets the next kernel start once all thread blocks have come here. For kernels that leave room for its blocks.
__device__ inline void LetNextKernelStart() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// Launches a kernel, on sm_90 before the one before it has ended.
template <class Params>
cudaError_t LaunchOverlapping(bool sm90, void (*kernel)(Params), dim3 blocks, int threads, int sharedBytes,
                              const Params& params, cudaStream_t stream) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(sharedBytes);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = sm90 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace flashmask::cuda
