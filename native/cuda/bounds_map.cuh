// Computes the bounds map of a call: smallest and largest bounds per kMapBlock key columns (arXiv 2410.01359, section
// 4.2). Also computes the spans of the columns, the rows that see a key, and the ranges of live tiles.
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

// One warp per row: whether the row sees a key. The key at its own position is tried first, because most rows see it.
template <int kThreads>
__global__ void SeeingKernel(Mask mask, Sizes s, uint8_t* seeing) {
  const int row = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t index = blockIdx.y;
  if (row >= s.Sq) return;
  const int lane = threadIdx.x % kWarp;
  bool sees = Sees(mask, index, s, row, min(max(row + s.Sk - s.Sq, 0), s.Sk - 1));
  const auto classify = [&](int block) {
    const int c0 = block * kMapBlock;
    return Classify(ReadBlockBounds<kMapBlock>(mask, index, block), mask.causal, row, row + 1, c0,
                    min(c0 + kMapBlock, s.Sk), false, s.Sk - s.Sq);
  };
  LiveBlocks live(0, mask.mapBlocks);
  while (!sees) {
    bool partial;
    const int block = live.Next(&partial, classify);
    if (block < 0) break;
    const int column = block * kMapBlock + lane;
    sees = !partial || __any_sync(~0u, column < s.Sk && Sees(mask, index, s, row, column));
  }
  if (lane == 0) seeing[index * s.Sq + row] = sees;
}

// One warp per query block: the first of its live key blocks and their end, so that long rows with few live tiles do
// not visit all others.
template <int kThreads>
__global__ void RangesKernel(Mask mask, int Sq, int Sk, int blockQ, int blockK, int queryBlocks, int2* ranges,
                             int* counter) {
  const int queryBlock = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t index = blockIdx.y;
  if (queryBlock == 0 && index == 0) *counter = 0;
  if (queryBlock >= queryBlocks) return;
  const int r0 = queryBlock * blockQ;
  const int r1 = min(r0 + blockQ, Sq);
  int firstColumn = Sk;
  int endColumn = 0;
  for (int block = threadIdx.x % kWarp; block < mask.mapBlocks; block += kWarp) {
    const BlockBounds bounds = ReadBlockBounds<kMapBlock>(mask, index, block);
    const int c0 = block * kMapBlock;
    const int c1 = min(c0 + kMapBlock, Sk);
    if (Classify(bounds, mask.causal, r0, r1, c0, c1, false, Sk - Sq) == kEmpty) continue;
    firstColumn = min(firstColumn, c0);
    endColumn = c1;
  }
  firstColumn = __reduce_min_sync(~0u, firstColumn);
  endColumn = __reduce_max_sync(~0u, endColumn);
  if (threadIdx.x % kWarp == 0) {
    ranges[index * queryBlocks + queryBlock] = {firstColumn / blockK, (endColumn + blockK - 1) / blockK};
  }
}

}  // namespace flashmask::cuda
