// Launches the kernels on Hopper: describes tensors to the copy engine, and starts as many thread blocks as stay.
#pragma once

#include <algorithm>

#include "hopper_forward.cuh"
#include "hopper_forward.h"

namespace flashmask::cuda {

// The driver's function that describes a tensor; null if it has none. The addon does not link to the driver.
inline auto FindEncode() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
  cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
  cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(result == cudaDriverEntryPointSuccess ? found : nullptr);
}

template <class T>
constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
template <>
constexpr CUtensorMapDataType kMapType<__half> = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;

// Describes a tensor to the copy engine, for copies of pages of 64 channels x boxRows rows.
template <class T>
cudaError_t Describe(CUtensorMap* map, const Tensor16& tensor, int rows, int heads, int batches, int boxRows) {
  static const auto encode = FindEncode();
  if (encode == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(tensor.channels), static_cast<cuuint64_t>(rows),
                              static_cast<cuuint64_t>(heads), static_cast<cuuint64_t>(batches)};
  const cuuint64_t strides[] = {2 * static_cast<cuuint64_t>(tensor.row), 2 * static_cast<cuuint64_t>(tensor.head),
                                2 * static_cast<cuuint64_t>(tensor.batch)};
  const cuuint32_t box[] = {64, static_cast<cuuint32_t>(boxRows), 1, 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const CUresult result =
      encode(map, kMapType<T>, 4, const_cast<void*>(tensor.data), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <class T, class Tile>
cudaError_t LaunchHopperTile(const ForwardParams& call, cudaStream_t stream) {
  const Sizes& s = call.sizes;
  HopperForwardParams params;
  params.call = call;
  cudaError_t error = Describe<T>(&params.q, call.q, s.Sq, s.H, s.B, Tile::kBlockQ);
  if (error == cudaSuccess) error = Describe<T>(&params.k, call.k, s.Sk, s.Hkv, s.B, Tile::kBlockK);
  if (error == cudaSuccess) error = Describe<T>(&params.v, call.v, s.Sk, s.Hkv, s.B, Tile::kBlockK);
  if (error != cudaSuccess) return error;
  const auto kernel = HopperForwardKernel<T, Tile>;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes);
  int device = 0;
  int processors = 0;
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const int64_t works = int64_t{s.B} * s.H * ((s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(works, processors));
  kernel<<<blocks, Tile::kThreads, Tile::kSharedBytes, stream>>>(params);
  return cudaGetLastError();
}

template <class T>
cudaError_t LaunchHopper(int kD, const ForwardParams& call, cudaStream_t stream) {
  return kD == 64 ? LaunchHopperTile<T, HopperForwardTile<64, 4>>(call, stream)
                  : LaunchHopperTile<T, HopperForwardTile<128, 2>>(call, stream);
}

}  // namespace flashmask::cuda
