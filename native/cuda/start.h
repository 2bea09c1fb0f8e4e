// Starts kernels.
#pragma once

#include <cuda_runtime.h>

namespace flashmask::cuda {

// How a kernel starts.
struct StartConfig {
  dim3 grid;
  unsigned threads;
  size_t sharedBytes;
  cudaStream_t stream;
  bool overlaps = false;  // starts while the kernel before it ends (overlap.cuh); on sm_90 only
  unsigned cluster = 1;   // thread blocks that reach each other's shared memory; more than one on sm_90 only
};

template <class... Params, class... Arguments>
cudaError_t Start(void (*kernel)(Params...), const StartConfig& launch, const Arguments&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = launch.grid;
  config.blockDim = dim3(launch.threads);
  config.dynamicSmemBytes = launch.sharedBytes;
  config.stream = launch.stream;
  config.attrs = attributes;
  if (launch.overlaps) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (launch.cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {launch.cluster, 1, 1};
  }
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace flashmask::cuda
