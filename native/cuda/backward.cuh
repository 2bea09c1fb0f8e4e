// The backward kernel: a thread block keeps kBlockK keys of one key head and walks over the live query blocks of all its query heads. dk and
// dv stay in registers; dq is added up in memory by atomics, unless the kernel of dq.cuh computes it.
#pragma once

#include "dropout.cuh"
#include "exponents.cuh"
#include "mask.cuh"
#include "params.h"
#include "primitives.cuh"
#include "row_block.cuh"
#include "tiles.h"

namespace flashmask::cuda {

// Weights are multiplied by 2^shift before they are rounded to T: small ones then are normal numbers.
template <class T>
constexpr int kBackwardWeightShift = 0;
template <>
constexpr int kBackwardWeightShift<__half> = 14;

// The factors of a batch and key head. With weights pS = p 2^shift, gradients of scores are dS = pS (product gradient - delta offset),
// in units of 2^gradientExponent.
struct Factors {
  float scale2;  // of products of q and k
  float shift;
  float gradient;
  float offset;
  float dq, dk, dv;  // of the results
};

template <class T, int kParts>
__device__ inline Factors FactorsOf(const BackwardParams& p, int keyBatchHead) {
  constexpr int kShift = kBackwardWeightShift<T>;
  const int q = ExponentOf<kParts>(p.qMagnitudes, keyBatchHead);
  const int k = ExponentOf<kParts>(p.kMagnitudes, keyBatchHead);
  const int v = ExponentOf<kParts>(p.vMagnitudes, keyBatchHead);
  const int dOut = ExponentOf<kParts>(p.dOutMagnitudes, keyBatchHead);
  const int gradient = GradientExponent(p, keyBatchHead);
  Factors factors;
  factors.scale2 = ScaleOfScores(p.scale, q + k);
  factors.shift = kShift;
  factors.offset = PowerOfTwo(-gradient - kShift);
  factors.gradient = p.dropout.keepScale * PowerOfTwo(dOut + v - gradient - kShift);
  factors.dq = p.scale * PowerOfTwo(gradient + k);
  factors.dk = p.scale * PowerOfTwo(gradient + q);
  factors.dv = p.dropout.keepScale * PowerOfTwo(dOut - kShift);
  return factors;
}

// Turns scores into weights pS, and products dO vᵀ into gradients of scores dS; both lose what dropout drops.
template <int kM, int kN>
__device__ inline void WeightsAndGradients(float (&scores)[kM][kN][4], float (&gradients)[kM][kN][4], const float (&lse2)[kM][2],
                                           const float (&delta)[kM][2], const Factors& factors, const Dropout& dropout,
                                           int batchHead, int row0, int column0) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      uint32_t kept = 15;
      if (dropout.threshold != 0) {
        kept = KeptElements(dropout, batchHead, row0 + ElementRow(m, 0), column0 + ElementColumn(n, 0));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float weight = Exp2(fmaf(scores[m][n][i], factors.scale2, factors.shift - lse2[m][i / 2]));
        const float product = kept >> i & 1 ? gradients[m][n][i] : 0.f;
        gradients[m][n][i] = weight * fmaf(product, factors.gradient, -delta[m][i / 2] * factors.offset);
        scores[m][n][i] = kept >> i & 1 ? weight : 0.f;
      }
    }
  }
}

// Rounds a warp's part of a tile to T and stores it to shared memory.
template <class T, int kParts, int kRows, int kPartBytes, int kM, int kN>
__device__ inline void StoreTile(uint32_t tile, const float (&x)[kM][kN][4], int row0, int column0) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row0 + ElementRow(m, 2 * half);
        const uint32_t at = tile + ChunkOffset<kRows>(row, column0 / 8 + n) + threadIdx.x % 4 * 4;
        uint32_t parts[kParts];
        Split<T, kParts>(parts, x[m][n][2 * half], x[m][n][2 * half + 1]);
#pragma unroll
        for (int part = 0; part < kParts; ++part) StoreShared(at + part * kPartBytes, parts[part]);
      }
    }
  }
}

// Adds two neighbouring channels to memory.
__device__ inline void AddPair(float* row, int channel, int channels, float x, float y) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (channels % 2 == 0) {
    if (channel < channels) {
      asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(row + channel), "f"(x), "f"(y) : "memory");
    }
    return;
  }
#endif
  if (channel < channels) atomicAdd(row + channel, x);
  if (channel + 1 < channels) atomicAdd(row + channel + 1, y);
}

// Stores a warp's part of dk or dv.
template <int kM, int kN>
__device__ inline void StoreRows(float* head, const Tensor32& to, const float (&x)[kM][kN][4], float factor, int row0, int channel0,
                                 int rows) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + ElementRow(m, 2 * half);
      if (row >= rows) continue;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const int channel = channel0 + ElementColumn(n, 0);
        const float first = x[m][n][2 * half] * factor;
        const float second = x[m][n][2 * half + 1] * factor;
        float* at = head + row * to.row;
        if (to.channels % 2 == 0) {
          if (channel < to.channels) *reinterpret_cast<float2*>(at + channel) = {first, second};
        } else {
          if (channel < to.channels) at[channel] = first;
          if (channel + 1 < to.channels) at[channel + 1] = second;
        }
      }
    }
  }
}

// A query block of one of the query heads that share the key head.
struct QueryBlock {
  int head;  // within the group
  int block;
  bool partial;
};

template <class T, class Tile>
__device__ inline void Backward(const BackwardParams& p) {
  constexpr int kBlockQ = Tile::kBlockQ;
  constexpr int kBlockK = Tile::kBlockK;
  constexpr int kParts = Tile::kParts;
  constexpr int kD = Tile::kD;
  constexpr int kThreads = Tile::kThreads;
  constexpr int kStages = Tile::kStages;
  // Blocks of 16 and of 8 that a warp has of the scores, of dk and dv, and of dq.
  constexpr int kScoreM = kBlockQ / Tile::kScoreRows / 16;
  constexpr int kScoreN = kBlockK / Tile::kScoreColumns / 8;
  constexpr int kKeyM = kBlockK / Tile::kKeyRows / 16;
  constexpr int kKeyN = kD / Tile::kKeyColumns / 8;
  constexpr int kQueryM = kBlockQ / Tile::kQueryRows / 16;
  constexpr int kQueryN = kD / Tile::kQueryColumns / 8;
  constexpr int kKeyPart = Tile::kKeyBytes / kParts;
  constexpr int kQueryPart = Tile::kQueryBytes / kParts;
  constexpr int kWeightPart = Tile::kWeightBytes / kParts;

  extern __shared__ __align__(1024) uint8_t shared[];
  constexpr int kStageBytes = 2 * Tile::kQueryBytes;
  constexpr int kQueriesAt = 2 * Tile::kKeyBytes;
  constexpr int kWeightsAt = kQueriesAt + kStages * kStageBytes;
  constexpr int kColumnsAt = kWeightsAt + 2 * Tile::kWeightBytes;
  constexpr int kStatsAt = kColumnsAt + Tile::kColumnBytes;
  const uint32_t base = SharedAddress(shared);
  const uint32_t kShared = base;
  const uint32_t vShared = base + Tile::kKeyBytes;
  const uint32_t weightsShared = base + kWeightsAt;
  const uint32_t gradientsShared = weightsShared + Tile::kWeightBytes;
  const int4* columns = p.mask.columns == nullptr ? nullptr : reinterpret_cast<const int4*>(shared + kColumnsAt);

  const int H = p.sizes.H;
  const int Hkv = p.sizes.Hkv;
  const int Sq = p.sizes.Sq;
  const int Sk = p.sizes.Sk;
  const int group = H / Hkv;
  const int offset = Sk - Sq;
  const int keyBlocks = (Sk + kBlockK - 1) / kBlockK;
  const int queryBlocks = (Sq + kBlockQ - 1) / kBlockQ;
  const int keyBlock = blockIdx.x % keyBlocks;  // the first have the most work under a causal mask
  const int keyBatchHead = blockIdx.x / keyBlocks;
  const int b = keyBatchHead / Hkv;
  const int keyHead = keyBatchHead % Hkv;
  const int c0 = keyBlock * kBlockK;
  const int c1 = min(c0 + kBlockK, Sk);
  const int warp = threadIdx.x / kWarp;

  const T* k = static_cast<const T*>(p.k.data) + b * p.k.batch + keyHead * p.k.head + c0 * p.k.row;
  const T* v = static_cast<const T*>(p.v.data) + b * p.v.batch + keyHead * p.v.head + c0 * p.v.row;
  const auto copyQueries = [&](const QueryBlock& at, int stage) {
    const int h = keyHead * group + at.head;
    const int r0 = at.block * kBlockQ;
    const uint32_t to = base + kQueriesAt + stage * kStageBytes;
    const T* q = static_cast<const T*>(p.q.data) + b * p.q.batch + h * p.q.head + r0 * p.q.row;
    const T* dOut = static_cast<const T*>(p.dOut.data) + b * p.dOut.batch + h * p.dOut.head + r0 * p.dOut.row;
    CopyParts<kParts, kBlockQ, kD, kThreads>(to, q, p.q, Sq - r0);
    CopyParts<kParts, kBlockQ, kD, kThreads>(to + Tile::kQueryBytes, dOut, p.dOut, Sq - r0);
    const int64_t row = static_cast<int64_t>(b * H + h) * Sq + r0;
    const uint32_t stats = base + kStatsAt + stage * 2 * Tile::kStatBytes;
    for (int i = threadIdx.x; i < kBlockQ; i += kThreads) {
      const bool valid = r0 + i < Sq;
      CopyAsync4(stats + i * 4, p.lse2 + (valid ? row + i : 0), valid);
      CopyAsync4(stats + Tile::kStatBytes + i * 4, p.delta + (valid ? row + i : 0), valid);
    }
    CommitCopies();
  };

  // The walk over query heads of the group, and over the live query blocks of each.
  const int firstBlock = p.mask.causal ? max(c0 - offset, 0) / kBlockQ : 0;
  int head = 0;
  int64_t maskIndex = MaskIndex(p.mask, b, keyHead * group, H);
  BlockBounds bounds = ReadBlockBounds<kBlockK>(p.mask, maskIndex, keyBlock);
  LiveBlocks live(firstBlock, queryBlocks);
  const auto classify = [&](int block) {
    const int r0 = block * kBlockQ;
    return Classify(bounds, p.mask.causal, r0, min(r0 + kBlockQ, Sq), c0, c1, c0 + kBlockK > Sk, offset);
  };
  const auto next = [&]() -> QueryBlock {
    while (true) {
      bool partial;
      const int block = live.Next(&partial, classify);
      if (block >= 0) return {head, block, partial};
      if (++head >= group) return {-1, -1, false};
      maskIndex = MaskIndex(p.mask, b, keyHead * group + head, H);
      bounds = ReadBlockBounds<kBlockK>(p.mask, maskIndex, keyBlock);
      live = LiveBlocks(firstBlock, queryBlocks);
    }
  };

  float dk[kKeyM][kKeyN][4];
  float dv[kKeyM][kKeyN][4];
  Clear(dk);
  Clear(dv);
  const Factors factors = FactorsOf<T, kParts>(p, keyBatchHead);

  // Each warp's places in the tiles.
  const int scoreRow = warp % Tile::kScoreRows * (kScoreM * 16);
  const int scoreColumn = warp / Tile::kScoreRows * (kScoreN * 8);
  const int keyRow = warp % Tile::kKeyRows * (kKeyM * 16);
  const int keyChannel = warp / Tile::kKeyRows * (kKeyN * 8);
  const int queryRow = warp % Tile::kQueryRows * (kQueryM * 16);
  const int queryChannel = warp / Tile::kQueryRows * (kQueryN * 8);
  const uint32_t kScoreLane = LaneAddress<kBlockK>(kShared, scoreColumn / 16, 0, false);
  const uint32_t vScoreLane = LaneAddress<kBlockK>(vShared, scoreColumn / 16, 0, false);
  const uint32_t kQueryLane = LaneAddress<kBlockK>(kShared, 0, queryChannel / 16, true);
  const uint32_t weightsLane = LaneAddress<kBlockQ>(weightsShared, 0, keyRow / 16, false);
  const uint32_t gradientsKeyLane = LaneAddress<kBlockQ>(gradientsShared, 0, keyRow / 16, false);
  const uint32_t gradientsQueryLane = LaneAddress<kBlockQ>(gradientsShared, queryRow / 16, 0, true);

  QueryBlock at = next();
  if (at.block >= 0) {
    CopyParts<kParts, kBlockK, kD, kThreads>(kShared, k, p.k, Sk - c0);
    CopyParts<kParts, kBlockK, kD, kThreads>(vShared, v, p.v, Sk - c0);
    copyQueries(at, 0);
  }
  int columnsHead = -1;
  int stage = 0;
  while (at.block >= 0) {
    const int h = keyHead * group + at.head;
    const int r0 = at.block * kBlockQ;
    if (at.partial && columns != nullptr && columnsHead != at.head) {
      columnsHead = at.head;
      CopyColumns<kBlockK, kThreads>(base + kColumnsAt, p.mask, MaskIndex(p.mask, b, h, H), c0, Sk);
      CommitCopies();
    }
    WaitCopies<0>();
    __syncthreads();
    const QueryBlock following = next();
    if (kStages == 2 && following.block >= 0) copyQueries(following, stage ^ 1);

    const uint32_t qShared = base + kQueriesAt + stage * kStageBytes;
    const uint32_t dOutShared = qShared + Tile::kQueryBytes;
    const float* stats = reinterpret_cast<const float*>(shared + kStatsAt + stage * 2 * Tile::kStatBytes);
    {
      using Queries = Operand<kBlockQ, false, kQueryPart>;
      using Keys = Operand<kBlockK, false, kKeyPart>;
      float scores[kScoreM][kScoreN][4];
      Clear(scores);
      Product<T, kParts, Queries, Keys, kD / 16>(scores, LaneAddress<kBlockQ>(qShared, scoreRow / 16, 0, true), kScoreLane);
      if (at.partial) HideMasked(scores, columns, p.mask.causal, r0 + scoreRow, scoreColumn, c0, Sq, Sk);
      float gradients[kScoreM][kScoreN][4];
      Clear(gradients);
      Product<T, kParts, Queries, Keys, kD / 16>(gradients, LaneAddress<kBlockQ>(dOutShared, scoreRow / 16, 0, true),
                                                 vScoreLane);
      float lse2[kScoreM][2];
      float delta[kScoreM][2];
#pragma unroll
      for (int m = 0; m < kScoreM; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = scoreRow + ElementRow(m, 2 * half);
          lse2[m][half] = r0 + row < Sq ? stats[row] : kInfinity;
          delta[m][half] = stats[kBlockQ + row];
        }
      }
      WeightsAndGradients(scores, gradients, lse2, delta, factors, p.dropout, b * H + h, r0 + scoreRow, c0 + scoreColumn);
      StoreTile<T, kParts, kBlockQ, kWeightPart>(weightsShared, scores, scoreRow, scoreColumn);
      StoreTile<T, kParts, kBlockQ, kWeightPart>(gradientsShared, gradients, scoreRow, scoreColumn);
    }
    __syncthreads();
    using Weights = Operand<kBlockQ, true, kWeightPart>;
    using Queries = Operand<kBlockQ, true, kQueryPart>;
    Product<T, kParts, Weights, Queries, kBlockQ / 16>(dv, weightsLane,
                                                       LaneAddress<kBlockQ>(dOutShared, 0, keyChannel / 16, true));
    if (p.accumulateDq) {
      float dq[kQueryM][kQueryN][4];
      Clear(dq);
      Product<T, kParts, Operand<kBlockQ, false, kWeightPart>, Operand<kBlockK, true, kKeyPart>, kBlockK / 16>(
          dq, gradientsQueryLane, kQueryLane);
      float* dqHead = p.dq.data + b * p.dq.batch + h * p.dq.head;
#pragma unroll
      for (int m = 0; m < kQueryM; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = r0 + queryRow + ElementRow(m, 2 * half);
          if (row >= Sq) continue;
#pragma unroll
          for (int n = 0; n < kQueryN; ++n) {
            AddPair(dqHead + row * p.dq.row, queryChannel + ElementColumn(n, 0), p.dq.channels, dq[m][n][2 * half] * factors.dq,
                    dq[m][n][2 * half + 1] * factors.dq);
          }
        }
      }
    }
    Product<T, kParts, Weights, Queries, kBlockQ / 16>(dk, gradientsKeyLane,
                                                       LaneAddress<kBlockQ>(qShared, 0, keyChannel / 16, true));
    if (kStages == 1 && following.block >= 0) {
      __syncthreads();
      copyQueries(following, 0);
    }
    if (kStages == 2) stage ^= 1;
    at = following;
  }

  const int rows = Sk - c0;
  float* dkHead = p.dk.data + b * p.dk.batch + keyHead * p.dk.head + c0 * p.dk.row;
  float* dvHead = p.dv.data + b * p.dv.batch + keyHead * p.dv.head + c0 * p.dv.row;
  StoreRows(dkHead, p.dk, dk, factors.dk, keyRow, keyChannel, rows);
  StoreRows(dvHead, p.dv, dv, factors.dv, keyRow, keyChannel, rows);
}

template <class T, int kD, int kParts, bool kLarge>
__global__ void __launch_bounds__(Tiles<kD, kParts, kLarge>::Backward::kThreads, 1)
    BackwardKernel(const __grid_constant__ BackwardParams p) {
  if constexpr (kCompiled<kLarge>) Backward<T, typename Tiles<kD, kParts, kLarge>::Backward>(p);
}

}  // namespace flashmask::cuda
