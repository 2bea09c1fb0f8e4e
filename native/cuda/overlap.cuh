// Kernels that start while the kernel before them ends (programmatic dependent launch), which sm_90 has. They must wait
// for it before they touch memory that it reads or writes. start.h starts them.
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

}  // namespace flashmask::cuda
