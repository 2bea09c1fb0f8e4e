// Starts kernels: on a GPU, or for tests on the emulator of native/test/emulator.
#pragma once

#include <cuda_runtime.h>

namespace flashmask::cuda {

#ifdef FLASHMASK_EMULATOR
template <class... Params, class... Arguments>
void Start(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t sharedBytes, cudaStream_t,
           const Arguments&... arguments) {
  emulator::Run(grid, threads, sharedBytes, [&] { kernel(arguments...); });
}
#else
template <class... Params, class... Arguments>
void Start(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t sharedBytes, cudaStream_t stream,
           const Arguments&... arguments) {
  // clang-format would take the brackets apart.
  // clang-format off
  kernel<<<grid, threads, sharedBytes, stream>>>(arguments...);
  // clang-format on
}
#endif

}  // namespace flashmask::cuda
