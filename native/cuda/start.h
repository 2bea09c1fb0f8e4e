// Starts kernels.
#pragma once

#include <cuda_runtime.h>

namespace flashmask::cuda {

template <class... Params, class... Arguments>
void Start(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t sharedBytes, cudaStream_t stream,
           const Arguments&... arguments) {
  kernel<<<grid, threads, sharedBytes, stream>>>(arguments...);
}

}  // namespace flashmask::cuda
