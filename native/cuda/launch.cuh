// Launches a kernel: selects the compiled variant and requests the shared memory of its tiles. A Launch type names the
// kernel, its parameters and its tiles (forward.cuh, backward.cuh, dq.cuh).
#pragma once

#include "launch.h"
#include "start.h"
#include "tiles.h"

namespace flashmask::cuda {

template <class Launch, class T, int kD, int kParts, bool kLarge>
cudaError_t LaunchTiles(const typename Launch::Params& params, cudaStream_t stream) {
  using Tile = typename Launch::template Tile<Tiles<kD, kParts, kLarge>>;
  constexpr int kBytes = Launch::template kSharedBytes<Tile>;
  static_assert(kBytes <= (kLarge ? kLargeShared : kSmallShared), "tiles fit the shared memory");
  const auto kernel = Launch::template Kernel<T, kD, kParts, kLarge>();
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  const int64_t blocks = Launch::template Blocks<Tile>(params.sizes);
  return Start(kernel, {static_cast<unsigned>(blocks), Tile::kThreads, kBytes, stream}, params);
}

template <class Launch, class T, int kParts, bool kLarge>
cudaError_t LaunchHeadSize(int kD, const typename Launch::Params& params, cudaStream_t stream) {
  if (kD == 64) return LaunchTiles<Launch, T, 64, kParts, kLarge>(params, stream);
  if (kD == 128) return LaunchTiles<Launch, T, 128, kParts, kLarge>(params, stream);
  return LaunchTiles<Launch, T, 256, kParts, kLarge>(params, stream);
}

template <class Launch, class T, int kParts>
cudaError_t LaunchVariant(const Variant& variant, const typename Launch::Params& params, cudaStream_t stream) {
  return variant.large ? LaunchHeadSize<Launch, T, kParts, true>(variant.kD, params, stream)
                       : LaunchHeadSize<Launch, T, kParts, false>(variant.kD, params, stream);
}

}  // namespace flashmask::cuda
