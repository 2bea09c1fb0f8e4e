// Handles numbers that are not finite, or so large that their products overflow. 0 · NaN is NaN, so a weight of 0 does
// not keep them out of results that the mask hides from them. Full tiles, and heads without such numbers, need nothing.
// In a partial tile of a head with such numbers, the gradients of masked scores are set to 0, and products that sum
// over masked pairs read zeros instead of such numbers. Afterwards the numbers are added for each visible pair.
#pragma once

#include "params.h"
#include "primitives.cuh"
#include "tiles.h"

namespace flashmask::cuda {

__device__ inline bool HasNotFinite(const Facts& facts, int keyBatchHead) {
  return facts.notFinite != nullptr && __ldg(&facts.notFinite[keyBatchHead]) != 0;
}

// Whether a tensor or the rows have numbers that are not finite (Facts).
__device__ inline bool HasNotFinite(const BackwardParams& p, int keyBatchHead) {
  return HasNotFinite(p.qFacts, keyBatchHead) || HasNotFinite(p.kFacts, keyBatchHead) ||
         HasNotFinite(p.vFacts, keyBatchHead) || HasNotFinite(p.dOutFacts, keyBatchHead) ||
         HasNotFinite(p.rowFacts, keyBatchHead);
}

// Sets numbers of a tile in shared memory to 0 if they are not finite.
template <class T, int kBytes, int kThreads>
__device__ inline void ClearNotFinite(uint8_t* tile) {
  uint32_t* words = reinterpret_cast<uint32_t*>(tile);
#pragma unroll 1
  for (int i = threadIdx.x; i < kBytes / 4; i += kThreads) words[i] &= FiniteMask<T>(words[i]);
}

// Sets the elements of kTiles consecutive tiles in shared memory to 0 where a pair (row, column) is not visible.
template <int kTiles, int kRows, int kColumns, int kThreads, class Visible>
__device__ inline void ClearMasked(uint8_t* tiles, Visible visible) {
#pragma unroll 1
  for (int i = threadIdx.x; i < kRows * kColumns; i += kThreads) {
    const int row = i / kColumns;
    const int column = i % kColumns;
    if (visible(row, column)) continue;
    uint8_t* at = tiles + ChunkOffset<kRows>(row, column / 8) + column % 8 * 2;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) *reinterpret_cast<uint16_t*>(at + tile * kTileBytes<kRows, kColumns>) = 0;
  }
}

// Adds each number of `from` that is not finite to its channel of all rows of `to` for which visible(row of from, row
// of to) is true. A thread handles whole channels.
template <class T, int kThreads, class Visible>
__device__ inline void AddNotFinite(float* to, const Tensor32& toTensor, int toRows, const T* from, int64_t fromStride,
                                    int fromRows, Visible visible) {
#pragma unroll 1
  for (int channel = threadIdx.x; channel < toTensor.channels; channel += kThreads) {
#pragma unroll 1
    for (int i = 0; i < fromRows; ++i) {
      const float x = static_cast<float>(from[i * fromStride + channel]);
      if (fabsf(x) < kInfinity) continue;
#pragma unroll 1
      for (int j = 0; j < toRows; ++j) {
        if (visible(i, j)) to[j * toTensor.row + channel] += x;
      }
    }
  }
}

}  // namespace flashmask::cuda
