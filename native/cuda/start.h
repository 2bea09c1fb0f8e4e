// Starts kernels: on a GPU, or for tests on the emulator of native/test/emulator.
#pragma once

#include <cuda_runtime.h>

namespace flashmask::cuda {

template <class... Params, class... Arguments>
void Start(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t sharedBytes, cudaStream_t stream,
           const Arguments&... arguments) {
#ifdef FLASHMASK_EMULATOR
  static_cast<void>(stream);
  emulator::Run(grid, threads, sharedBytes, [&] { kernel(arguments...); });
#else
  kernel<<<grid, threads, sharedBytes, stream> > >(arguments...);
#endif
}

}  // namespace flashmask::cuda
