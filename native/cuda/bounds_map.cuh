// Computes the bounds map of a mask: smallest and largest bounds per kMapBlock key columns (arXiv 2410.01359, section
// 4.2). Also computes the spans of the columns.
#pragma once

#include "mask.cuh"
#include "params.h"

namespace flashmask::cuda {

// Row bounds in the four-number form: LTS, LTE, UTS, UTE. TWIN: src/mask/bounds/intervals.ts
__device__ inline int4 IntervalsAt(const int* bounds, int n, bool causal, int64_t index) {
  constexpr int kMax = 0x7fffffff;
  constexpr int kMin = -kMax - 1;
  const int* at = bounds + index * n;
  if (n == 4) return {at[0], at[1], at[2], at[3]};
  if (n == 1) return {at[0], kMax, 0, 0};
  return causal ? int4{at[0], at[1], 0, 0} : int4{at[0], kMax, kMin, at[1]};
}

// One warp per kMapBlock columns of one (batch, head) of the mask.
template <int kThreads>
__global__ void BoundsMapKernel(const int* bounds, int n, bool causal, int Sk, int mapBlocks, int4* spans,
                                int4* boundsMap) {
  const int block = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t index = blockIdx.y;
  if (block >= mapBlocks) return;
  // Lanes past the last column repeat it, which leaves the smallest and largest bounds unchanged.
  const int own = block * kMapBlock + static_cast<int>(threadIdx.x % kWarp);
  const int64_t column = index * Sk + min(own, Sk - 1);
  const int4 interval = IntervalsAt(bounds, n, causal, column);
  const int4 lower = {__reduce_min_sync(~0u, interval.x), __reduce_max_sync(~0u, interval.x),
                      __reduce_min_sync(~0u, interval.y), __reduce_max_sync(~0u, interval.y)};
  const int4 upper = {__reduce_min_sync(~0u, interval.z), __reduce_max_sync(~0u, interval.z),
                      __reduce_min_sync(~0u, interval.w), __reduce_max_sync(~0u, interval.w)};
  if (own < Sk) {
    // The length is unsigned, because it may exceed the largest int.
    const auto length = [](int start, int end) {
      return end > start ? static_cast<int>(unsigned(end) - unsigned(start)) : 0;
    };
    spans[column] = {interval.x, length(interval.x, interval.y), interval.z, length(interval.z, interval.w)};
  }
  if (threadIdx.x % kWarp == 0) {
    boundsMap[(index * mapBlocks + block) * 2] = lower;
    boundsMap[(index * mapBlocks + block) * 2 + 1] = upper;
  }
}

}  // namespace flashmask::cuda
