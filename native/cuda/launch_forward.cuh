// Launches the forward kernel: chooses the compiled variant, and asks for the shared memory that its tiles need.
#pragma once

#include "forward.cuh"
#include "launch.h"

namespace flashmask::cuda {

template <class T, int kD, int kParts, bool kLarge>
cudaError_t LaunchForwardTiles(const ForwardParams& params, cudaStream_t stream) {
  using Tile = typename Tiles<kD, kParts, kLarge>::Forward;
  constexpr int kBytes = Tile::kSharedBytes(1);
  static_assert(kBytes <= (kLarge ? kLargeShared : kSmallShared), "tiles fit the shared memory");
  const auto kernel = ForwardKernel<T, kD, kParts, kLarge>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  const Sizes& s = params.sizes;
  const int64_t blocks = int64_t{s.B} * s.H * ((s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ);
  kernel<<<static_cast<unsigned>(blocks), Tile::kThreads, kBytes, stream>>>(params);
  return cudaGetLastError();
}

template <class T, int kParts, bool kLarge>
cudaError_t LaunchForwardHeadSize(int kD, const ForwardParams& params, cudaStream_t stream) {
  if (kD == 64) return LaunchForwardTiles<T, 64, kParts, kLarge>(params, stream);
  if (kD == 128) return LaunchForwardTiles<T, 128, kParts, kLarge>(params, stream);
  return LaunchForwardTiles<T, 256, kParts, kLarge>(params, stream);
}

template <class T, int kParts>
cudaError_t LaunchForward(const Variant& variant, const ForwardParams& params, cudaStream_t stream) {
  return variant.large ? LaunchForwardHeadSize<T, kParts, true>(variant.kD, params, stream)
                       : LaunchForwardHeadSize<T, kParts, false>(variant.kD, params, stream);
}

}  // namespace flashmask::cuda
