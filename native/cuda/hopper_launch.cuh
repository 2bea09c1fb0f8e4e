// Launches the kernels on Hopper: describes tensors to the copy engine, and starts as many thread blocks as stay.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "params.h"
#include "start.h"

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
constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
template <>
inline constexpr CUtensorMapDataType kMapType<__half> = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
template <>
inline constexpr CUtensorMapDataType kMapType<__nv_bfloat16> = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;

// Describes a tensor of T to the copy engine, in boxes of 128 bytes x boxRows rows.
template <class T, class Tensor>
cudaError_t Describe(CUtensorMap* map, const Tensor& tensor, int rows, int heads, int batches, int boxRows) {
  static const auto encode = FindEncode();
  if (encode == nullptr) return cudaErrorNotSupported;
  const auto bytes = [](int64_t elements) { return sizeof(T) * static_cast<cuuint64_t>(elements); };
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(tensor.channels), static_cast<cuuint64_t>(rows),
                              static_cast<cuuint64_t>(heads), static_cast<cuuint64_t>(batches)};
  const cuuint64_t strides[] = {bytes(tensor.row), bytes(tensor.head), bytes(tensor.batch)};
  const cuuint32_t box[] = {128 / sizeof(T), static_cast<cuuint32_t>(boxRows), 1, 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const CUresult result = encode(map, kMapType<T>, 4, const_cast<void*>(static_cast<const void*>(tensor.data)), sizes,
                                 strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// The processors of the device; 1 if it cannot be asked.
inline int Processors() {
  int device = 0;
  int processors = 1;
  if (cudaGetDevice(&device) == cudaSuccess) {
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  return processors;
}

// Starts a thread block for each processor, or fewer if there is less work. kCluster thread blocks share work. The
// kernel starts before the one before it has ended, and must wait for that.
template <class Tile, unsigned kCluster = 1, class Params>
cudaError_t LaunchStaying(void (*kernel)(Params), const Params& params, int64_t works, cudaStream_t stream) {
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes);
  int device = 0;
  int processors = 0;
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(works, processors / kCluster)) * kCluster;
  return Start(kernel, {blocks, Tile::kThreads, Tile::kSharedBytes, stream, true, kCluster}, params);
}

}  // namespace flashmask::cuda
