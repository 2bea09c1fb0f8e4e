// The forward kernel: a thread block keeps kBlockQ queries of one head and walks over the live key blocks, with an
// online softmax.
#pragma once

#include "dropout.cuh"
#include "exponents.cuh"
#include "mask.cuh"
#include "params.h"
#include "primitives.cuh"
#include "row_block.cuh"
#include "rows.cuh"
#include "tiles.h"

namespace flashmask::cuda {

// The running maximum of a row is raised only when a score exceeds it by 2^kSlack: weights up to that do no harm, and
// the accumulators are rescaled seldom.
constexpr float kSlack = 8;

// Weights are multiplied by 2^shift before they are rounded to T: small ones then are normal numbers.
template <class T>
constexpr int kForwardWeightShift = 0;
template <>
constexpr int kForwardWeightShift<__half> = 7;

// Statistics of the rows that a lane has: two in each of kM blocks.
template <int kM>
struct RowStats {
  float max[kM][2];  // in powers of two
  float sum[kM][2];  // of this lane's columns only, until the end
};

// The same maximum for the four lanes of a row.
__device__ inline float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ inline float QuadSum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// Raises the maxima where scores exceed them by far, and rescales what has been added up.
template <int kM, int kN, int kOut>
__device__ inline void RaiseMaxima(RowStats<kM>& stats, float (&out)[kM][kOut][4], const float (&scores)[kM][kN][4],
                                   float scale2) {
  float largest[kM][2];
  bool raise = false;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float x = -kInfinity;
#pragma unroll
      for (int n = 0; n < kN; ++n) x = fmaxf(x, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
      largest[m][half] = QuadMax(x) * scale2;
      raise |= largest[m][half] > stats.max[m][half] + kSlack;
    }
  }
  if (!__any_sync(~0u, raise)) return;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float max = fmaxf(stats.max[m][half], largest[m][half]);
      const float factor = max == -kInfinity ? 1.f : Exp2(stats.max[m][half] - max);
      stats.max[m][half] = max;
      stats.sum[m][half] *= factor;
#pragma unroll
      for (int n = 0; n < kOut; ++n) {
        out[m][n][2 * half] *= factor;
        out[m][n][2 * half + 1] *= factor;
      }
    }
  }
}

// Turns scores into weights, 2^(score - max + kShift), and adds them to the sums. Split floats are shifted by a product
// of their own: in the exponent the shift would cost bits of it.
template <int kParts, int kShift, int kM, int kN>
__device__ inline void ScoresToWeights(RowStats<kM>& stats, float (&scores)[kM][kN][4], float scale2) {
  constexpr int kInExponent = kParts == 1 ? kShift : 0;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float max = stats.max[m][half];
      const float base = max == -kInfinity ? 0.f : kInExponent - max;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = scores[m][n][2 * half + e];
          x = Exp2(fmaf(x, scale2, base));
          if constexpr (kParts == 2) x *= 1 << kShift;
          stats.sum[m][half] += x;
        }
      }
    }
  }
}

template <int kM, int kN>
__device__ inline void DropWeights(float (&weights)[kM][kN][4], const Dropout& dropout, int batchHead, int row0,
                                   int column0) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const uint32_t kept = KeptElements(dropout, batchHead, row0 + ElementRow(m, 0), column0 + ElementColumn(n, 0));
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[m][n][i] = kept >> i & 1 ? weights[m][n][i] : 0.f;
    }
  }
}

template <class T, class Tile>
__device__ inline void Forward(const ForwardParams& p) {
  constexpr int kBlockQ = Tile::kBlockQ;
  constexpr int kBlockK = Tile::kBlockK;
  constexpr int kM = Tile::kRowBlocks;
  constexpr int kParts = Tile::kParts;
  using Queries = Operand<kBlockQ, false, Tile::kQueryBytes / kParts>;
  using Keys = Operand<kBlockK, false, Tile::kKeyBytes / kParts>;
  using Values = Operand<kBlockK, true, Tile::kKeyBytes / kParts>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const uint32_t qShared = SharedAddress(shared);
  const uint32_t kShared = qShared + Tile::kQueryBytes;
  const uint32_t vShared = kShared + Tile::kKeyBytes;
  const uint32_t columnsShared = vShared + Tile::kKeyBytes;
  const int4* columns = p.mask.columns == nullptr
                            ? nullptr
                            : reinterpret_cast<const int4*>(shared + Tile::kQueryBytes + 2 * Tile::kKeyBytes);

  const RowBlock at = RowBlockOf<kBlockQ>(p.sizes, p.mask);
  const int Sq = p.sizes.Sq;
  const int Sk = p.sizes.Sk;
  const int warpRow = threadIdx.x / kWarp * (kM * 16);
  const T* q = static_cast<const T*>(p.q.data) + at.b * p.q.batch + at.h * p.q.head + at.r0 * p.q.row;
  const T* k = static_cast<const T*>(p.k.data) + at.b * p.k.batch + at.keyHead * p.k.head;
  const T* v = static_cast<const T*>(p.v.data) + at.b * p.v.batch + at.keyHead * p.v.head;
  const auto copyKeys = [&](int block) {
    const int c0 = block * kBlockK;
    CopyParts<kParts, kBlockK, Tile::kD, Tile::kThreads>(kShared, k + c0 * p.k.row, p.k, Sk - c0);
    CopyColumns<kBlockK, Tile::kThreads>(columnsShared, p.mask, at.maskIndex, c0, Sk);
  };

  LiveBlocks live = LiveKeyBlocks<kBlockK>(at, p.sizes, p.mask, p.ranges);
  const auto classify = [&](int block) { return ClassifyKeyBlock<kBlockK>(at, p.sizes, p.mask, block); };
  bool partial = false;
  int block = live.Next(&partial, classify);
  const int scoreExponent =
      ExponentOf<kParts>(p.qMagnitudes, at.keyBatchHead) + ExponentOf<kParts>(p.kMagnitudes, at.keyBatchHead);
  const float scale2 = ScaleOfScores(p.scale, scoreExponent);
  if (block >= 0) {
    CopyParts<kParts, kBlockQ, Tile::kD, Tile::kThreads>(qShared, q, p.q, at.r1 - at.r0);
    copyKeys(block);
    CommitCopies();
  }

  float out[kM][Tile::kD / 8][4];
  Clear(out);
  RowStats<kM> stats;
#pragma unroll
  for (int m = 0; m < kM; ++m) stats.max[m][0] = stats.max[m][1] = -kInfinity, stats.sum[m][0] = stats.sum[m][1] = 0;
  const uint32_t qLane = LaneAddress<kBlockQ>(qShared, warpRow / 16, 0, true);
  const uint32_t kLane = LaneAddress<kBlockK>(kShared, 0, 0, false);
  const uint32_t vLane = LaneAddress<kBlockK>(vShared, 0, 0, true);

  while (block >= 0) {
    const int c0 = block * kBlockK;
    WaitCopies<0>();
    __syncthreads();
    CopyParts<kParts, kBlockK, Tile::kD, Tile::kThreads>(vShared, v + c0 * p.v.row, p.v, Sk - c0);
    CommitCopies();

    float scores[kM][kBlockK / 8][4];
    Clear(scores);
    Product<T, kParts, Queries, Keys, Tile::kD / 16>(scores, qLane, kLane);
    if (partial) HideMasked(scores, classify(block), columns, p.mask.causal, at.r0 + warpRow, 0, c0, Sq, Sk);
    const int nextBlock = live.Next(&partial, classify);

    WaitCopies<0>();
    __syncthreads();
    if (nextBlock >= 0) copyKeys(nextBlock);
    CommitCopies();

    RaiseMaxima(stats, out, scores, scale2);
    ScoresToWeights<kParts, kForwardWeightShift<T>>(stats, scores, scale2);
    if (p.dropout.threshold != 0) DropWeights(scores, p.dropout, at.batchHead, at.r0 + warpRow, c0);
    Accumulate<kParts>(out,
                       [&](auto& sum) { ProductFromRegisters<T, kParts, Values, kBlockK / 16>(sum, scores, vLane); });
    block = nextBlock;
  }

  const float unit = PowerOfTwo(ExponentOf<kParts>(p.vMagnitudes, at.keyBatchHead)) * p.dropout.keepScale;
  float* outHead = p.out.data + at.b * p.out.batch + at.h * p.out.head;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = at.r0 + warpRow + ElementRow(m, 2 * half);
      const float sum = QuadSum(stats.sum[m][half]);
      if (row >= at.r1) continue;
      const float factor = sum == 0 ? 0.f : unit / sum;
#pragma unroll
      for (int n = 0; n < Tile::kD / 8; ++n) {
        StorePair(outHead + row * p.out.row, ElementColumn(n, 0), p.out.channels, out[m][n][2 * half] * factor,
                  out[m][n][2 * half + 1] * factor);
      }
      if (threadIdx.x % 4 == 0) {
        // Scores times a scale of 0 are 0, not the tiny numbers that ScaleOfScores makes of them.
        const float max = p.scale == 0 ? 0.f : stats.max[m][half];
        const float lse2 = max + log2f(sum) - kForwardWeightShift<T>;
        p.lse[static_cast<int64_t>(at.batchHead) * Sq + row] = sum == 0 ? -kInfinity : lse2 * kLn2;
      }
    }
  }
}

template <class T, int kD, int kParts, bool kLarge>
__global__ void __launch_bounds__(Tiles<kD, kParts, kLarge>::Forward::kThreads, 1)
    ForwardKernel(const __grid_constant__ ForwardParams p) {
  if constexpr (kCompiled<kLarge>) {
    Forward<T, typename Tiles<kD, kParts, kLarge>::Forward>(p);
  } else {
    __trap();
  }
}

// For launch.cuh.
struct ForwardLaunch {
  using Params = ForwardParams;

  template <class AllTiles>
  using Tile = typename AllTiles::Forward;

  template <class Tile>
  static constexpr int kSharedBytes = Tile::kSharedBytes(1);

  template <class T, int kD, int kParts, bool kLarge>
  static constexpr auto Kernel() {
    return ForwardKernel<T, kD, kParts, kLarge>;
  }

  template <class Tile>
  static int64_t Blocks(const Sizes& s) {
    return int64_t{s.B} * s.H * ((s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ);
  }
};

}  // namespace flashmask::cuda
