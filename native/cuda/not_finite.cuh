// Numbers that are not finite, or so large that products of them overflow: 0 · NaN is NaN, so weights of 0 do not keep
// them from what the mask hides. A partial tile of a head that has such numbers is treated with care: the gradients of
// masked scores are set to 0, and the products that sum over masked pairs see zeros in the place of numbers that are
// not finite. Those are added up afterwards, pair by visible pair. Full tiles, and heads without such numbers, need
// nothing.
#pragma once

#include "params.h"
#include "primitives.cuh"
#include "tiles.h"

namespace flashmask::cuda {

__device__ inline bool HasNotFinite(const Facts& facts, int keyBatchHead) {
  return facts.notFinite != nullptr && __ldg(&facts.notFinite[keyBatchHead]) != 0;
}

// Whether a tensor or a row has numbers that are not finite (Facts).
__device__ inline bool HasNotFinite(const BackwardParams& p, int keyBatchHead) {
  return HasNotFinite(p.qFacts, keyBatchHead) || HasNotFinite(p.kFacts, keyBatchHead) ||
         HasNotFinite(p.vFacts, keyBatchHead) || HasNotFinite(p.dOutFacts, keyBatchHead) ||
         HasNotFinite(p.rowFacts, keyBatchHead);
}

// Sets the numbers of a tile in shared memory that are not finite to 0.
template <class T, int kBytes, int kThreads>
__device__ inline void ClearNotFinite(uint8_t* tile) {
  uint32_t* words = reinterpret_cast<uint32_t*>(tile);
#pragma unroll 1
  for (int i = threadIdx.x; i < kBytes / 4; i += kThreads) words[i] &= FiniteMask<T>(words[i]);
}

// Sets the elements of kTiles tiles in shared memory, one behind the other, to 0 where a pair (row, column) is not
// visible.
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

// Adds the numbers of `from` that are not finite to their channel of all rows of `to` that visible(row of from, row of
// to) tells. A thread keeps to its channels.
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
