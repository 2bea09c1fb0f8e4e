// The tiles of the kernels of few rows, and the rows of a key head.
#pragma once

#include "few_rows.h"
#include "primitives.cuh"
#include "tiles.h"

namespace flashmask::cuda {

// Tiles of keys and of values take 16 KB each, two of either are in shared memory, and three thread blocks share a
// multiprocessor of Hopper: enough copies are in flight to keep its memory busy.
template <int kD_, int kRows_>
struct FewRowsTile {
  static constexpr int kD = kD_;
  static constexpr int kRows = kRows_;
  static constexpr int kThreads = 128;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr int kBlocks = 3;
  static constexpr int kStages = 2;
  static constexpr int kTileFloats = 4096;
  static constexpr int kKeys = kTileFloats / kD;
  static constexpr int kChunks = kD / 4;                // of 16 bytes, in a row
  static constexpr int kKeyLanes = kThreads / kChunks;  // keys whose values are added at a time
  static constexpr int kRowsOfWarp = kRows / kWarps;    // for the softmax
  // From the scores of a key to those of the next, so that lanes that read different keys use different banks.
  static constexpr int kScoreStride = kRows + 4;
  // In shared memory, in floats: keys, values, queries, scores (later weights), factors.
  static constexpr int kValuesAt = kStages * kTileFloats;
  static constexpr int kQueriesAt = kValuesAt + kStages * kTileFloats;
  static constexpr int kScoresAt = kQueriesAt + kRows * kD;
  static constexpr int kFactorsAt = kScoresAt + kKeys * kScoreStride;
  static constexpr int kSharedBytes = (kFactorsAt + kRows) * 4;
};

// A key head and its rows. Row r is query r % Sq of the query head r / Sq of the group.
struct HeadRows {
  int b, keyHead;
  int firstHead;  // the first query head
  int rows;
};

__device__ inline HeadRows HeadRowsAt(const Sizes& s, int keyBatchHead) {
  const int group = s.H / s.Hkv;
  const int keyHead = keyBatchHead % s.Hkv;
  return {keyBatchHead / s.Hkv, keyHead, keyHead * group, group * s.Sq};
}

__device__ inline float4 ReadQuad(const float* at) { return *reinterpret_cast<const float4*>(at); }

__device__ inline void WriteQuad(float* at, const float (&x)[4]) {
  *reinterpret_cast<float4*>(at) = {x[0], x[1], x[2], x[3]};
}

// Stands for the weight of a hidden pair. Other weights are not negative.
constexpr float kHiddenWeight = -1;

// Moves the channels of a row of a tile to others by an exclusive or, so that lanes that read several rows at once use
// different banks.
template <int kRowMask, int kChannels>
struct Swizzle {
  __device__ static int Of(int row) { return (row & kRowMask) * kChannels; }
};

}  // namespace flashmask::cuda
