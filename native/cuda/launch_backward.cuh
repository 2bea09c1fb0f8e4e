// Launches the backward kernel: chooses the compiled variant, and asks for the shared memory that its tiles need.
#pragma once

#include "backward.cuh"
#include "launch.h"

namespace flashmask::cuda {

template <class T, int kD, int kParts, bool kLarge>
cudaError_t LaunchBackwardTiles(const BackwardParams& params, cudaStream_t stream) {
  using Tile = typename Tiles<kD, kParts, kLarge>::Backward;
  constexpr int kBytes = Tile::kSharedBytes;
  static_assert(kBytes <= (kLarge ? kLargeShared : kSmallShared), "tiles fit the shared memory");
  const auto kernel = BackwardKernel<T, kD, kParts, kLarge>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  const Sizes& s = params.sizes;
  const int64_t blocks = int64_t{s.B} * s.Hkv * ((s.Sk + Tile::kBlockK - 1) / Tile::kBlockK);
  kernel<<<static_cast<unsigned>(blocks), Tile::kThreads, kBytes, stream>>>(params);
  return cudaGetLastError();
}

template <class T, int kParts, bool kLarge>
cudaError_t LaunchBackwardHeadSize(int kD, const BackwardParams& params, cudaStream_t stream) {
  if (kD == 64) return LaunchBackwardTiles<T, 64, kParts, kLarge>(params, stream);
  if (kD == 128) return LaunchBackwardTiles<T, 128, kParts, kLarge>(params, stream);
  return LaunchBackwardTiles<T, 256, kParts, kLarge>(params, stream);
}

template <class T, int kParts>
cudaError_t LaunchBackward(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return variant.large ? LaunchBackwardHeadSize<T, kParts, true>(variant.kD, params, stream)
                       : LaunchBackwardHeadSize<T, kParts, false>(variant.kD, params, stream);
}

}  // namespace flashmask::cuda
