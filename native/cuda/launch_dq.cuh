// Launches the dq kernel: chooses the compiled variant, and asks for the shared memory that its tiles need.
#pragma once

#include "dq.cuh"
#include "launch.h"

namespace flashmask::cuda {

template <class T, int kD, int kParts, bool kLarge>
cudaError_t LaunchDqTiles(const BackwardParams& params, cudaStream_t stream) {
  using Tile = typename Tiles<kD, kParts, kLarge>::Dq;
  constexpr int kBytes = Tile::kSharedBytes(2);
  static_assert(kBytes <= (kLarge ? kLargeShared : kSmallShared), "tiles fit the shared memory");
  const auto kernel = DqKernel<T, kD, kParts, kLarge>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  const Sizes& s = params.sizes;
  const int64_t blocks = int64_t{s.B} * s.H * ((s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ);
  kernel<<<static_cast<unsigned>(blocks), Tile::kThreads, kBytes, stream>>>(params);
  return cudaGetLastError();
}

template <class T, int kParts, bool kLarge>
cudaError_t LaunchDqHeadSize(int kD, const BackwardParams& params, cudaStream_t stream) {
  if (kD == 64) return LaunchDqTiles<T, 64, kParts, kLarge>(params, stream);
  if (kD == 128) return LaunchDqTiles<T, 128, kParts, kLarge>(params, stream);
  return LaunchDqTiles<T, 256, kParts, kLarge>(params, stream);
}

template <class T, int kParts>
cudaError_t LaunchDq(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return variant.large ? LaunchDqHeadSize<T, kParts, true>(variant.kD, params, stream)
                       : LaunchDqHeadSize<T, kParts, false>(variant.kD, params, stream);
}

}  // namespace flashmask::cuda
