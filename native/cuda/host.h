// What the host code of the kernels shares.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../attention.h"

namespace flashmask::cuda {

inline int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline Status StatusOf(cudaError_t error) {
  if (error == cudaSuccess) return {nullptr, nullptr};
  return {cudaGetErrorName(error), cudaGetErrorString(error)};
}

}  // namespace flashmask::cuda
