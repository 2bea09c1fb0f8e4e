// Computes only the gradient of the queries, without atomics (deterministic: true). A thread block keeps kBlockQ
// queries and their gradients and walks over the live key blocks, as the forward kernel does.
#pragma once

#include "gradients.cuh"
#include "not_finite.cuh"
#include "row_block.cuh"
#include "rows.cuh"
#include "tiles.h"

namespace flashmask::cuda {

// Adds the gradients from a block of keys to the sums, as the kernels on Hopper add them to memory.
template <int kM, int kN>
__device__ inline void AddRounded(float (&sums)[kM][kN][4], const float (&dq)[kM][kN][4], float factor) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[m][n][i] = __fadd_rn(sums[m][n][i], __fmul_rn(dq[m][n][i], factor));
    }
  }
}

// With kLikeHopper, results have the bits of the kernels on Hopper, which leave some heads to this one.
template <class T, class Tile, bool kLikeHopper>
__device__ inline void Dq(const BackwardParams& p) {
  constexpr int kBlockQ = Tile::kBlockQ;
  constexpr int kBlockK = Tile::kBlockK;
  constexpr int kM = Tile::kRowBlocks;
  constexpr int kParts = Tile::kParts;
  using Queries = Operand<kBlockQ, false, Tile::kQueryBytes / kParts>;
  using Keys = Operand<kBlockK, false, Tile::kKeyBytes / kParts>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t qShared = SharedAddress(shared);
  const uint32_t dOutShared = qShared + Tile::kQueryBytes;
  const uint32_t kShared = dOutShared + Tile::kQueryBytes;
  const uint32_t vShared = kShared + Tile::kKeyBytes;
  const uint32_t spansShared = vShared + Tile::kKeyBytes;
  const int4* spans = p.mask.spans == nullptr
                          ? nullptr
                          : reinterpret_cast<const int4*>(shared + 2 * Tile::kQueryBytes + 2 * Tile::kKeyBytes);

  const RowBlock at = RowBlockAt<kBlockQ>(blockIdx.x, p.sizes, p.mask, p.mask.spans != nullptr);
  const int Sq = p.sizes.Sq;
  const int Sk = p.sizes.Sk;
  const int warpRow = threadIdx.x / kWarp * (kM * 16);
  const T* q = static_cast<const T*>(p.q.data) + at.b * p.q.batch + at.h * p.q.head + at.r0 * p.q.row;
  const T* dOut = static_cast<const T*>(p.dOut.data) + at.b * p.dOut.batch + at.h * p.dOut.head + at.r0 * p.dOut.row;
  const T* k = static_cast<const T*>(p.k.data) + at.b * p.k.batch + at.keyHead * p.k.head;
  const T* v = static_cast<const T*>(p.v.data) + at.b * p.v.batch + at.keyHead * p.v.head;
  const auto copyKeys = [&](int block) {
    const int c0 = block * kBlockK;
    CopyParts<kParts, kBlockK, Tile::kD, Tile::kThreads>(kShared, k + c0 * p.k.row, p.k, Sk - c0);
    CopyParts<kParts, kBlockK, Tile::kD, Tile::kThreads>(vShared, v + c0 * p.v.row, p.v, Sk - c0);
    CopySpans<kBlockK, Tile::kThreads>(spansShared, p.mask, at.maskHead, c0, Sk);
    CommitCopies();
  };

  LiveBlocks live = LiveKeyBlocks<kBlockK>(at, p.sizes, p.mask, p.ranges);
  const auto classify = [&](int block) { return ClassifyKeyBlock<kBlockK>(at, p.sizes, p.mask, block); };
  bool partial = false;
  int block = live.Next(&partial, classify);
  if (block >= 0) {
    CopyParts<kParts, kBlockQ, Tile::kD, Tile::kThreads>(qShared, q, p.q, at.r1 - at.r0);
    CopyParts<kParts, kBlockQ, Tile::kD, Tile::kThreads>(dOutShared, dOut, p.dOut, at.r1 - at.r0);
    copyKeys(block);
  }

  const Factors factors = FactorsOf<T, kParts>(p, at.keyBatchHead);
  const bool notFinite = HasNotFinite(p, at.keyBatchHead);
  RowTerms<kM> rows;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t index =
          static_cast<int64_t>(at.batchHead) * p.rowsOfHead + at.r0 + warpRow + ElementRow(m, 2 * half);
      rows.reference[m][half] = p.reference[index];
      rows.weight[m][half] = p.weight[index];
      rows.rowShift[m][half] = p.rowShift[index];
    }
  }
  float dq[kM][Tile::kD / 8][4];
  Clear(dq);
  float sums[kM][Tile::kD / 8][4];
  if (kLikeHopper) Clear(sums);
  const uint32_t qLane = LaneAddress<kBlockQ>(qShared, warpRow / 16, 0, true);
  const uint32_t dOutLane = LaneAddress<kBlockQ>(dOutShared, warpRow / 16, 0, true);
  const uint32_t kLane = LaneAddress<kBlockK>(kShared, 0, 0, false);
  const uint32_t vLane = LaneAddress<kBlockK>(vShared, 0, 0, false);
  const uint32_t kSumLane = LaneAddress<kBlockK>(kShared, 0, 0, true);
  while (block >= 0) {
    const int c0 = block * kBlockK;
    WaitCopies<0>();
    __syncthreads();
    float scores[kM][kBlockK / 8][4];
    float gradients[kM][kBlockK / 8][4];
    Clear(scores);
    Clear(gradients);
    Product<T, kParts, Queries, Keys, Tile::kD / 16>(scores, qLane, kLane);
    if (partial) HideMasked(scores, classify(block), spans, p.mask.causal, at.r0 + warpRow, 0, c0, Sq, Sk);
    Product<T, kParts, Queries, Keys, Tile::kD / 16>(gradients, dOutLane, vLane);
    if (p.dropout.threshold == 0) {
      WeightsAndGradients(scores, gradients, rows, factors);
    } else {
      DroppedWeightsAndGradients(scores, gradients, rows, factors, p.dropout, at.batchHead, at.r0 + warpRow, c0);
    }
    if (partial && notFinite) {
      HideMasked(gradients, classify(block), spans, p.mask.causal, at.r0 + warpRow, 0, c0, Sq, Sk, 0.f);
      __syncthreads();
      ClearNotFinite<T, Tile::kKeyBytes, Tile::kThreads>(shared + 2 * Tile::kQueryBytes);
      __syncthreads();
    }
    Accumulate<kParts>(dq, [&](auto& sum) {
      using KeyRows = Operand<kBlockK, true, Tile::kKeyBytes / kParts>;
      ProductFromRegisters<T, kParts, KeyRows, kBlockK / 16>(sum, gradients, kSumLane);
    });
    block = live.Next(&partial, classify);
    __syncthreads();
    if (block >= 0) copyKeys(block);
    if (kLikeHopper && (block < 0 || block * kBlockK / kHopperBackwardKeys != c0 / kHopperBackwardKeys)) {
      AddRounded(sums, dq, factors.dq);
      Clear(dq);
    }
  }

  float* dqHead = p.dq.data + at.b * p.dq.batch + at.h * p.dq.head + at.r0 * p.dq.row;
  StoreRows(dqHead, p.dq, kLikeHopper ? sums : dq, kLikeHopper ? 1.f : factors.dq, warpRow, 0, at.r1 - at.r0);
}

// Whether the kernels on Hopper have done this thread block's work.
template <class Tile>
__device__ inline bool IsDone(const BackwardParams& p) {
  const RowBlock at = RowBlockAt<Tile::kBlockQ>(blockIdx.x, p.sizes, p.mask, p.mask.spans != nullptr);
  return p.onlyNotFinite && !HasNotFinite(p, at.keyBatchHead);
}

template <class T, int kD, int kParts, bool kLarge>
__global__ void __launch_bounds__(Tiles<kD, kParts, kLarge>::Dq::kThreads)
    DqKernel(const __grid_constant__ BackwardParams p) {
  if constexpr (kCompiled<kLarge>) {
    using Tile = typename Tiles<kD, kParts, kLarge>::Dq;
    if (kLarge && IsDone<Tile>(p)) return;
    Dq<T, Tile, kLarge && kParts == 1>(p);
  } else {
    __trap();
  }
}

// The launch traits for launch.cuh.
struct DqLaunch {
  using Params = BackwardParams;

  template <class AllTiles>
  using Tile = typename AllTiles::Dq;

  template <class Tile>
  static constexpr int kSharedBytes = Tile::kSharedBytes(2);

  template <class T, int kD, int kParts, bool kLarge>
  static constexpr auto Kernel() {
    return DqKernel<T, kD, kParts, kLarge>;
  }

  template <class Tile>
  static int64_t Blocks(const Sizes& s) {
    return int64_t{s.B} * s.H * ((s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ);
  }
};

}  // namespace flashmask::cuda
