// The forward kernel. A thread block keeps kBlockQ queries of one head and walks over the live key blocks, with an
// online softmax.
#pragma once

#include "dropout.cuh"
#include "exponents.cuh"
#include "mask.cuh"
#include "not_finite.cuh"
#include "params.h"
#include "primitives.cuh"
#include "row_block.cuh"
#include "rows.cuh"
#include "tiles.h"

namespace flashmask::cuda {

// A row's reference is raised only when a score exceeds the score that set it by more than kSlack powers of two. Larger
// weights up to that do no harm, and the accumulators are rarely rescaled.
constexpr float kSlack = 8;

// Weights are multiplied by 2^shift before they are rounded to T, so that small weights are normal numbers. The part
// kReferenceShift of the shift lowers the reference below the largest score. The rest, kProductShift, is a separate
// multiplication for split floats, because a lower reference would cost their exponents bits.
template <class T>
constexpr int kForwardWeightShift = 0;
template <>
inline constexpr int kForwardWeightShift<__half> = 7;
template <class T, int kParts>
constexpr int kReferenceShift = kParts == 1 ? kForwardWeightShift<T> : 0;
template <class T, int kParts>
constexpr int kProductShift = kForwardWeightShift<T> - kReferenceShift<T, kParts>;

// Statistics of the rows of a lane: two rows in each of kM blocks.
template <int kM>
struct RowStats {
  float reference[kM][2];  // subtracted from scores, in powers of two; minus infinity before the first score
  float sum[kM][2];        // only of this lane's columns until the end
};

__device__ inline float FiniteReference(float reference) { return reference == -kInfinity ? 0.f : reference; }

// The maximum over the four lanes of a row.
__device__ inline float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

__device__ inline float QuadSum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// Raises the references of rows that have scores far above them. Each row decides for itself, so that other rows have
// no influence on it. Gives whether there are such rows; then the output must be multiplied by the factors.
template <int kShift, int kM, int kN>
__device__ inline bool RaiseReferences(RowStats<kM>& stats, float (&factors)[kM][2], const float (&scores)[kM][kN][4],
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
      // A difference, because a sum would be rounded at large scores. NaN, the difference of two infinities, raises
      // nothing.
      raise |= largest[m][half] - stats.reference[m][half] > kShift + kSlack;
    }
  }
  if (!__any_sync(~0u, raise)) return false;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float& reference = stats.reference[m][half];
      const bool raise = largest[m][half] - reference > kShift + kSlack;
      // Rounds up, so that no weight exceeds 2^kShift, however large the score.
      const float raised = raise ? __fadd_ru(largest[m][half], -kShift) : reference;
      factors[m][half] = raise ? Exp2(reference - raised) : 1.f;
      reference = raised;
      stats.sum[m][half] *= factors[m][half];
    }
  }
  return true;
}

template <int kM, int kOut>
__device__ inline void Rescale(float (&out)[kM][kOut][4], const float (&factors)[kM][2]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kOut; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[m][n][i] *= factors[m][i / 2];
    }
  }
}

// Turns scores into weights, 2^(score - reference + kShift), and adds them to the sums.
template <int kShift, int kM, int kN>
__device__ inline void ScoresToWeights(RowStats<kM>& stats, float (&scores)[kM][kN][4], float scale2) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float base = -FiniteReference(stats.reference[m][half]);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = scores[m][n][2 * half + e];
          x = Exp2(fmaf(x, scale2, base));
          if constexpr (kShift != 0) x *= 1 << kShift;
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

// Divides a warp's rows, which begin at row warpRow of the row block, by their sums, and stores them and their
// statistics.
template <class T, int kParts, int kM, int kN>
__device__ inline void StoreOutput(const ForwardParams& p, const RowBlock& at, int warpRow,
                                   const float (&out)[kM][kN][4], const RowStats<kM>& stats) {
  const float unit = PowerOfTwo(ExponentOf<kParts>(p.vFacts, at.keyBatchHead)) * p.dropout.keepScale;
  float* outHead = p.out.data + at.b * p.out.batch + at.h * p.out.head;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = at.r0 + warpRow + ElementRow(m, 2 * half);
      float sum = QuadSum(stats.sum[m][half]);
      if (row >= at.r1) continue;
      // If all visible scores of a row are minus infinity, its output is 0 / 0.
      if (sum == 0 && SeesKeys(p.mask, at.maskHead, p.sizes, row)) sum = kNaN;
      const float factor = sum == 0 ? 0.f : unit / sum;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        StorePair(outHead + row * p.out.row, ElementColumn(n, 0), p.out.channels, out[m][n][2 * half] * factor,
                  out[m][n][2 * half + 1] * factor);
      }
      if (threadIdx.x % 4 == 0) {
        const int64_t index = static_cast<int64_t>(at.batchHead) * p.sizes.Sq + row;
        const float reference = FiniteReference(stats.reference[m][half]);
        const float plainSum = sum * (1.f / (1 << kProductShift<T, kParts>));
        p.lse[index] = sum == 0 ? -kInfinity : (reference + log2f(plainSum)) * kLn2;
        p.rowStats[index] = {reference, plainSum};
      }
    }
  }
}

// Adds the values that are not finite to the stored rows that see them. All rows must be stored.
template <class T, int kBlockK, int kThreads>
__device__ inline void AddNotFiniteValues(const ForwardParams& p, const RowBlock& at) {
  const T* v = static_cast<const T*>(p.v.data) + at.b * p.v.batch + at.keyHead * p.v.head;
  float* rows = p.out.data + at.b * p.out.batch + at.h * p.out.head + at.r0 * p.out.row;
  LiveBlocks live = LiveKeyBlocks<kBlockK>(at, p.sizes, p.mask, p.ranges);
  const auto classify = [&](int block) { return ClassifyKeyBlock<kBlockK>(at, p.sizes, p.mask, block); };
  bool partial;
  for (int block; (block = live.Next(&partial, classify)) >= 0;) {
    if (!partial) continue;
    const int c0 = block * kBlockK;
    AddNotFinite<T, kThreads>(
        rows, p.out, at.r1 - at.r0, v + c0 * p.v.row, p.v.row, min(kBlockK, p.sizes.Sk - c0),
        [&](int key, int query) { return Sees(p.mask, at.maskHead, p.sizes, at.r0 + query, c0 + key); });
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
  const uint32_t spansShared = vShared + Tile::kKeyBytes;
  const int4* spans = p.mask.spans == nullptr
                          ? nullptr
                          : reinterpret_cast<const int4*>(shared + Tile::kQueryBytes + 2 * Tile::kKeyBytes);

  const RowBlock at = RowBlockAt<kBlockQ>(blockIdx.x, p.sizes, p.mask, p.mask.spans != nullptr);
  const int Sq = p.sizes.Sq;
  const int Sk = p.sizes.Sk;
  const int warpRow = threadIdx.x / kWarp * (kM * 16);
  const T* q = static_cast<const T*>(p.q.data) + at.b * p.q.batch + at.h * p.q.head + at.r0 * p.q.row;
  const T* k = static_cast<const T*>(p.k.data) + at.b * p.k.batch + at.keyHead * p.k.head;
  const T* v = static_cast<const T*>(p.v.data) + at.b * p.v.batch + at.keyHead * p.v.head;
  const auto copyKeys = [&](int block) {
    const int c0 = block * kBlockK;
    CopyParts<kParts, kBlockK, Tile::kD, Tile::kThreads>(kShared, k + c0 * p.k.row, p.k, Sk - c0);
    CopySpans<kBlockK, Tile::kThreads>(spansShared, p.mask, at.maskHead, c0, Sk);
  };

  LiveBlocks live = LiveKeyBlocks<kBlockK>(at, p.sizes, p.mask, p.ranges);
  const auto classify = [&](int block) { return ClassifyKeyBlock<kBlockK>(at, p.sizes, p.mask, block); };
  bool partial = false;
  int block = live.Next(&partial, classify);
  const int scoreExponent =
      ExponentOf<kParts>(p.qFacts, at.keyBatchHead) + ExponentOf<kParts>(p.kFacts, at.keyBatchHead);
  const float scale2 = ScaleOfScores(p.scoreScale, scoreExponent);
  if (block >= 0) {
    CopyParts<kParts, kBlockQ, Tile::kD, Tile::kThreads>(qShared, q, p.q, at.r1 - at.r0);
    copyKeys(block);
    CommitCopies();
  }

  float out[kM][Tile::kD / 8][4];
  Clear(out);
  RowStats<kM> stats;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    stats.reference[m][0] = stats.reference[m][1] = -kInfinity;
    stats.sum[m][0] = stats.sum[m][1] = 0;
  }
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
    if (partial) HideMasked(scores, classify(block), spans, p.mask.causal, at.r0 + warpRow, 0, c0, Sq, Sk);
    const bool careful = partial && HasNotFinite(p.vFacts, at.keyBatchHead);
    const int nextBlock = live.Next(&partial, classify);

    WaitCopies<0>();
    __syncthreads();
    if (nextBlock >= 0) copyKeys(nextBlock);
    CommitCopies();
    if (careful) {
      ClearNotFinite<T, Tile::kKeyBytes, Tile::kThreads>(shared + Tile::kQueryBytes + Tile::kKeyBytes);
      __syncthreads();
    }

    float factors[kM][2];
    if (RaiseReferences<kReferenceShift<T, kParts>>(stats, factors, scores, scale2)) Rescale(out, factors);
    ScoresToWeights<kProductShift<T, kParts>>(stats, scores, scale2);
    if (p.dropout.threshold != 0) DropWeights(scores, p.dropout, at.batchHead, at.r0 + warpRow, c0);
    Accumulate<kParts>(out,
                       [&](auto& sum) { ProductFromRegisters<T, kParts, Values, kBlockK / 16>(sum, scores, vLane); });
    block = nextBlock;
  }

  StoreOutput<T, kParts>(p, at, warpRow, out, stats);
  if (!HasNotFinite(p.vFacts, at.keyBatchHead)) return;
  __syncthreads();
  AddNotFiniteValues<T, kBlockK, Tile::kThreads>(p, at);
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

// The launch traits for launch.cuh.
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
