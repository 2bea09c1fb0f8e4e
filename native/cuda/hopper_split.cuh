// Products on Hopper of numbers with kParts parts of 16 bits. Tiles of the parts follow each other in shared memory. Of
// the four products of two split floats, three matter. Unless kSmallFirst, they are added up in the order of Product
// (primitives.cuh), so that all kernels get the same sums, bit for bit.
#pragma once

#include "hopper.cuh"

namespace flashmask::cuda {

// Copies the tiles of all parts, kRows rows from `row` on. The batches of the low parts follow those of the high ones.
template <int kParts, int kD, int kRows>
__device__ inline void CopyTiles(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int row, int head,
                                 int batch, int batches) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    CopyPages<kD, kRows>(shared + part * kTileBytes<kRows, kD>, map, barrier, row, head, batch + part * batches);
  }
}

// Rounds accumulators times a factor to kParts numbers of T, in the layout of left operands.
template <class T, int kParts, int kN>
__device__ inline void PackParts(uint32_t (&packed)[kParts][kN / 2][4], const float (&acc)[kN][4], float factor = 1) {
#pragma unroll
  for (int k = 0; k < kN / 2; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float (&block)[4] = acc[2 * k + i / 2];
      uint32_t parts[kParts];
      Split<T, kParts>(parts, block[2 * (i % 2)] * factor, block[2 * (i % 2) + 1] * factor);
#pragma unroll
      for (int part = 0; part < kParts; ++part) packed[part][k][i] = parts[part];
    }
  }
}

// Issues scores, acc = A B^T, as IssueTransposed does. Queries are on the left, or on the right if kKeysLeft.
template <class T, int kParts, int kD, int kRowsA, int kRowsB, bool kKeysLeft, int kN>
__device__ inline void IssueScoresOf(float (&acc)[kN][4], uint32_t a, uint32_t b) {
  if constexpr (kParts == 1) {
    IssueTransposed<T, kD, kRowsA, kRowsB>(acc, a, b);
  } else {
    const Descriptor left = Descriptor::OfRows(a);
    const Descriptor right = Descriptor::OfRows(b);
    constexpr int kLowA = kTileBytes<kRowsA, kD>;
    constexpr int kLowB = kTileBytes<kRowsB, kD>;
    Pin(acc);
    FenceProducts();
#pragma unroll
    for (int k = 0; k < kD / 16; ++k) {
      const int atA = k / 4 * (kRowsA * kPageRowBytes) + k % 4 * 32;
      const int atB = k / 4 * (kRowsB * kPageRowBytes) + k % 4 * 32;
      Product16<false>(acc, left.At(atA), right.At(atB), k != 0, T());
      // The low numbers of the keys, then those of the queries.
      Product16<false>(acc, left.At(atA + (kKeysLeft ? kLowA : 0)), right.At(atB + (kKeysLeft ? 0 : kLowB)), true, T());
      Product16<false>(acc, left.At(atA + (kKeysLeft ? 0 : kLowA)), right.At(atB + (kKeysLeft ? kLowB : 0)), true, T());
    }
    CommitProducts();
  }
}

// Issues acc += W B, summed over kSteps times 16 rows of B, a tile of kRowsB rows and kN times 8 channels. Split floats
// go to `tile` first, because tensor cores truncate when they add: FinishSum rounds the sum. With kSmallFirst, less is
// truncated.
template <class T, int kRowsB, bool kSmallFirst, int kParts, int kSteps, int kN, int kTileN>
__device__ inline void IssueSum(float (&acc)[kN][4], float (&tile)[kTileN][4],
                                const uint32_t (&left)[kParts][kSteps][4], uint32_t b) {
  if constexpr (kParts == 1) {
    IssueFromRegisters<T, kRowsB>(acc, left[0], b);
  } else {
    const Descriptor right = Descriptor::OfColumns<kRowsB * kPageRowBytes>(b);
    constexpr int kLow = kTileBytes<kRowsB, kN * 8>;
    constexpr int kStep = 16 * kPageRowBytes;
    Pin(tile);
    FenceProducts();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      if constexpr (!kSmallFirst) Product16<true>(tile, left[0][k], right.At(k * kStep), k != 0, T());
      Product16<true>(tile, left[0][k], right.At(k * kStep + kLow), !kSmallFirst || k != 0, T());
      Product16<true>(tile, left[1][k], right.At(k * kStep), true, T());
    }
    if constexpr (kSmallFirst) {
#pragma unroll
      for (int k = 0; k < kSteps; ++k) Product16<true>(tile, left[0][k], right.At(k * kStep), true, T());
    }
    CommitProducts();
  }
}

// What a sum needs beside its accumulators: kN blocks if numbers are split.
template <int kParts, int kN>
using SumTile = float[kParts == 1 ? 1 : kN][4];

// The products of a sum are finished.
template <int kParts, int kN, int kTileN>
__device__ inline void FinishSum(float (&acc)[kN][4], float (&tile)[kTileN][4]) {
  if constexpr (kParts == 1) {
    Pin(acc);
  } else {
    Pin(tile);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[n][i] += tile[n][i];
    }
  }
}

// Issues acc = A^T B of split floats, summed over kRows rows: A of kColumns columns, B of kN times 8 channels.
template <class T, int kRows, int kColumns, int kN>
__device__ inline void IssueSplitFromColumns(float (&acc)[kN][4], uint32_t a, uint32_t b) {
  const Descriptor left = Descriptor::OfColumns<kRows * kPageRowBytes>(a);
  const Descriptor right = Descriptor::OfColumns<kRows * kPageRowBytes>(b);
  constexpr int kStep = 16 * kPageRowBytes;
  Pin(acc);
  FenceProducts();
#pragma unroll
  for (int k = 0; k < kRows / 16; ++k) {
    Product16<true, true>(acc, left.At(k * kStep), right.At(k * kStep), k != 0, T());
    Product16<true, true>(acc, left.At(k * kStep), right.At(k * kStep + kTileBytes<kRows, kN * 8>), true, T());
    Product16<true, true>(acc, left.At(k * kStep + kTileBytes<kRows, kColumns>), right.At(k * kStep), true, T());
  }
  CommitProducts();
}

}  // namespace flashmask::cuda
