// The backward kernel. A thread block keeps kBlockK keys of one key head and walks over the live query blocks of all
// its query heads. dk and dv stay in registers. Atomics add up dq in memory, unless the kernel of dq.cuh computes it.
#pragma once

#include "column_block.cuh"
#include "gradients.cuh"
#include "mask.cuh"
#include "not_finite.cuh"
#include "params.h"
#include "primitives.cuh"
#include "row_block.cuh"
#include "rows.cuh"
#include "tiles.h"

namespace flashmask::cuda {

template <class T, class Tile>
__device__ inline void Backward(const BackwardParams& p) {
  constexpr int kBlockQ = Tile::kBlockQ;
  constexpr int kBlockK = Tile::kBlockK;
  constexpr int kParts = Tile::kParts;
  constexpr int kD = Tile::kD;
  constexpr int kThreads = Tile::kThreads;
  constexpr int kStages = Tile::kStages;
  // Blocks of 16 rows and 8 columns per warp: of the scores, of dk and dv, and of dq.
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
  constexpr int kSpansAt = kWeightsAt + 2 * Tile::kWeightBytes;
  constexpr int kStatsAt = kSpansAt + Tile::kSpanBytes;
  constexpr int kDqAt = kStatsAt + kStages * 3 * Tile::kStatBytes;
  const uint32_t base = SharedAddress(shared);
  const uint32_t kShared = base;
  const uint32_t vShared = base + Tile::kKeyBytes;
  const uint32_t weightsShared = base + kWeightsAt;
  const uint32_t gradientsShared = weightsShared + Tile::kWeightBytes;
  const int4* spans = p.mask.spans == nullptr ? nullptr : reinterpret_cast<const int4*>(shared + kSpansAt);

  const int H = p.sizes.H;
  const int Sq = p.sizes.Sq;
  const int Sk = p.sizes.Sk;
  const int offset = Sk - Sq;
  const int queryBlocks = (Sq + kBlockQ - 1) / kBlockQ;
  const KeyBlock keys = KeyBlockAt<kBlockK>(blockIdx.x, p.sizes, p.mask.spans != nullptr);
  const int b = keys.b;
  const int keyHead = keys.keyHead;
  const int group = keys.group;
  const int keyBatchHead = keys.keyBatchHead;
  if (p.onlyNotFinite && !HasNotFinite(p, keyBatchHead)) return;
  const int c0 = keys.c0;
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
    const int64_t row = static_cast<int64_t>(b * H + h) * p.rowsOfHead + r0;
    const uint32_t stats = base + kStatsAt + stage * 3 * Tile::kStatBytes;
    for (int i = 4 * threadIdx.x; i < kBlockQ; i += 4 * kThreads) {
      CopyAsync16(stats + i * 4, p.reference + row + i, true);
      CopyAsync16(stats + Tile::kStatBytes + i * 4, p.weight + row + i, true);
      CopyAsync16(stats + 2 * Tile::kStatBytes + i * 4, p.rowShift + row + i, true);
    }
    CommitCopies();
  };

  // The walk over query heads of the group, and over the live query blocks of each.
  const int firstBlock = p.mask.causal ? max(c0 - offset, 0) / kBlockQ : 0;
  int head = 0;
  LiveBlocks live(firstBlock, queryBlocks);
  const auto classify = [&](int head, int block) {
    const int64_t maskHead = MaskHeadOf(p.mask, b, keyHead * group + head, H);
    const int r0 = block * kBlockQ;
    return Classify(ReadBlockBounds<kBlockK>(p.mask, maskHead, keys.block), p.mask.causal, r0, min(r0 + kBlockQ, Sq),
                    c0, keys.c1, c0 + kBlockK > Sk, offset);
  };
  // For the same bits it walks as the kernels on Hopper do, which leave some heads to it.
  constexpr bool kLikeHopper = Tile::kBulk;
  const auto next = [&]() -> QueryBlock {
    while (true) {
      bool partial;
      const int block = live.Next(&partial, [&](int block) {
        if constexpr (kLikeHopper) block = BlockOfWalk(block, firstBlock, queryBlocks, p.order != nullptr);
        return classify(head, block);
      });
      if constexpr (kLikeHopper) {
        if (block >= 0) return {head, BlockOfWalk(block, firstBlock, queryBlocks, p.order != nullptr), partial};
      }
      if (block >= 0) return {head, block, partial};
      if (++head >= group) return {-1, -1, false};
      live = LiveBlocks(firstBlock, queryBlocks);
    }
  };

  float dk[kKeyM][kKeyN][4];
  float dv[kKeyM][kKeyN][4];
  Clear(dk);
  Clear(dv);
  const Factors factors = FactorsOf<T, kParts>(p, keyBatchHead);
  // With numbers that are not finite, partial tiles and tiles with rows past the end need care.
  const bool notFinite = HasNotFinite(p, keyBatchHead);
  const auto isCareful = [&](const QueryBlock& at) {
    return notFinite && (at.partial || (at.block + 1) * kBlockQ > Sq);
  };
  const auto sees = [&](const QueryBlock& at, int row, int column) {
    row += at.block * kBlockQ;
    column += c0;
    const int64_t maskHead = MaskHeadOf(p.mask, b, keyHead * group + at.head, H);
    return row < Sq && column < Sk && Sees(p.mask, maskHead, p.sizes, row, column);
  };

  // Each warp's position in the tiles.
  const int scoreRow = warp % Tile::kScoreRows * (kScoreM * 16);
  const int scoreColumn = warp / Tile::kScoreRows * (kScoreN * 8);
  const int keyRow = warp % Tile::kKeyRows * (kKeyM * 16);
  const int keyChannel = warp / Tile::kKeyRows * (kKeyN * 8);
  const int queryRow = warp % Tile::kQueryRows * (kQueryM * 16);
  const int queryChannel = warp / Tile::kQueryRows * (kQueryN * 8);
  const uint32_t kScoreLane = LaneAddress<kBlockK>(kShared, scoreColumn / 16, 0, false);
  const uint32_t vScoreLane = kScoreLane + Tile::kKeyBytes;
  const uint32_t kQueryLane = LaneAddress<kBlockK>(kShared, 0, queryChannel / 16, true);
  const uint32_t weightsLane = LaneAddress<kBlockQ>(weightsShared, 0, keyRow / 16, false);
  const uint32_t gradientsKeyLane = weightsLane + Tile::kWeightBytes;
  const uint32_t gradientsQueryLane = LaneAddress<kBlockQ>(gradientsShared, queryRow / 16, 0, true);

  // Bulk additions need rows whose bytes are a multiple of 16. The dq of a query block is added after the barrier that
  // follows the block.
  const bool bulk = Tile::kBulk && p.accumulateDq && p.dq.channels % 4 == 0;
  QueryBlock staged = {-1, -1, false};
  const auto addStaged = [&]() {
    if (!bulk || staged.block < 0) return;
    const int row = threadIdx.x;
    const int r0 = staged.block * kBlockQ;
    if (row < kBlockQ && r0 + row < Sq) {
      float* to = p.dq.data + b * p.dq.batch + (keyHead * group + staged.head) * p.dq.head + (r0 + row) * p.dq.row;
      AddBulkRow(to, base + kDqAt + row * Tile::kDqRowBytes, p.dq.channels * 4);
    }
    CommitBulk();
  };

  QueryBlock at = next();
  if (at.block >= 0) {
    CopyParts<kParts, kBlockK, kD, kThreads>(kShared, k, p.k, Sk - c0);
    CopyParts<kParts, kBlockK, kD, kThreads>(vShared, v, p.v, Sk - c0);
    copyQueries(at, 0);
  }
  int spansHead = -1;
  int stage = 0;
  while (at.block >= 0) {
    const int h = keyHead * group + at.head;
    const int r0 = at.block * kBlockQ;
    if (at.partial && spans != nullptr && spansHead != at.head) {
      spansHead = at.head;
      CopySpans<kBlockK, kThreads>(base + kSpansAt, p.mask, MaskHeadOf(p.mask, b, h, H), c0, Sk);
      CommitCopies();
    }
    WaitCopies<0>();
    __syncthreads();
    addStaged();
    const QueryBlock following = next();

    const uint32_t qShared = base + kQueriesAt + stage * kStageBytes;
    const uint32_t dOutShared = qShared + Tile::kQueryBytes;
    const float* stats = reinterpret_cast<const float*>(shared + kStatsAt + stage * 3 * Tile::kStatBytes);
    {
      using Queries = Operand<kBlockQ, false, kQueryPart>;
      using Keys = Operand<kBlockK, false, kKeyPart>;
      float scores[kScoreM][kScoreN][4];
      Clear(scores);
      Product<T, kParts, Queries, Keys, kD / 16>(scores, LaneAddress<kBlockQ>(qShared, scoreRow / 16, 0, true),
                                                 kScoreLane);
      if (kStages == 2 && following.block >= 0) copyQueries(following, stage ^ 1);
      if (at.partial) {
        HideMasked(scores, classify(at.head, at.block), spans, p.mask.causal, r0 + scoreRow, scoreColumn, c0, Sq, Sk);
      }
      float gradients[kScoreM][kScoreN][4];
      Clear(gradients);
      Product<T, kParts, Queries, Keys, kD / 16>(gradients, LaneAddress<kBlockQ>(dOutShared, scoreRow / 16, 0, true),
                                                 vScoreLane);
      RowTerms<kScoreM> rows;
#pragma unroll
      for (int m = 0; m < kScoreM; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = scoreRow + ElementRow(m, 2 * half);
          rows.reference[m][half] = stats[row];
          rows.weight[m][half] = stats[kBlockQ + row];
          rows.rowShift[m][half] = stats[2 * kBlockQ + row];
        }
      }
      if (p.dropout.threshold == 0) {
        WeightsAndGradients(scores, gradients, rows, factors);
      } else {
        DroppedWeightsAndGradients(scores, gradients, rows, factors, p.dropout, b * H + h, r0 + scoreRow,
                                   c0 + scoreColumn);
      }
      StoreTile<T, kParts, kBlockQ, kWeightPart>(weightsShared, scores, scoreRow, scoreColumn);
      StoreTile<T, kParts, kBlockQ, kWeightPart>(gradientsShared, gradients, scoreRow, scoreColumn);
    }
    if (bulk) WaitBulkRead();
    __syncthreads();
    const bool careful = isCareful(at);
    if (careful) {
      ClearMasked<2 * kParts, kBlockQ, kBlockK, kThreads>(shared + kWeightsAt,
                                                          [&](int row, int column) { return sees(at, row, column); });
      ClearNotFinite<T, kStageBytes, kThreads>(shared + kQueriesAt + stage * kStageBytes);
      if (p.accumulateDq) ClearNotFinite<T, Tile::kKeyBytes, kThreads>(shared);
      __syncthreads();
    }
    using Weights = Operand<kBlockQ, true, kWeightPart>;
    using Queries = Operand<kBlockQ, true, kQueryPart>;
    Accumulate<kParts>(dv, [&](auto& sum) {
      const uint32_t dOutLane = LaneAddress<kBlockQ>(dOutShared, 0, keyChannel / 16, true);
      Product<T, kParts, Weights, Queries, kBlockQ / 16>(sum, weightsLane, dOutLane);
    });
    if (p.accumulateDq) {
      float dq[kQueryM][kQueryN][4];
      Clear(dq);
      Product<T, kParts, Operand<kBlockQ, false, kWeightPart>, Operand<kBlockK, true, kKeyPart>, kBlockK / 16>(
          dq, gradientsQueryLane, kQueryLane);
      if (bulk) {
        StageRows<Tile::kDqRowBytes>(base + kDqAt, dq, factors.dq, queryRow, queryChannel);
        staged = at;
      } else {
        float* dqHead = p.dq.data + b * p.dq.batch + h * p.dq.head + r0 * p.dq.row;
        AddRows(dqHead, p.dq, dq, factors.dq, queryRow, queryChannel, Sq - r0);
      }
    }
    Accumulate<kParts>(dk, [&](auto& sum) {
      const uint32_t qLane = LaneAddress<kBlockQ>(qShared, 0, keyChannel / 16, true);
      Product<T, kParts, Weights, Queries, kBlockQ / 16>(sum, gradientsKeyLane, qLane);
    });
    if (careful && p.accumulateDq) {  // reload the unchanged keys for the next scores
      __syncthreads();
      CopyParts<kParts, kBlockK, kD, kThreads>(kShared, k, p.k, Sk - c0);
      CommitCopies();
    }
    if (kStages == 1 && following.block >= 0) {
      __syncthreads();
      copyQueries(following, 0);
    }
    if (kStages == 2) stage ^= 1;
    at = following;
  }

  if (bulk) {
    __syncthreads();
    addStaged();
  }

  const Factors last = FactorsOf<T, kParts>(p, keyBatchHead);  // read again, which saves registers in the loop
  const int rows = Sk - c0;
  float* dkHead = p.dk.data + b * p.dk.batch + keyHead * p.dk.head + c0 * p.dk.row;
  float* dvHead = p.dv.data + b * p.dv.batch + keyHead * p.dv.head + c0 * p.dv.row;
  StoreRows(dkHead, p.dk, dk, last.dk, keyRow, keyChannel, rows);
  StoreRows(dvHead, p.dv, dv, last.dv, keyRow, keyChannel, rows);
  if (bulk) WaitBulkRead();

  if (!HasNotFinite(p.dOutFacts, keyBatchHead)) return;
  __syncthreads();
  head = 0;
  live = LiveBlocks(firstBlock, queryBlocks);
  while ((at = next()).block >= 0) {
    if (!isCareful(at)) continue;
    const int h = keyHead * group + at.head;
    const int r0 = at.block * kBlockQ;
    const T* dOut = static_cast<const T*>(p.dOut.data) + b * p.dOut.batch + h * p.dOut.head + r0 * p.dOut.row;
    AddNotFinite<T, kThreads>(dvHead, p.dv, keys.c1 - c0, dOut, p.dOut.row, min(kBlockQ, Sq - r0),
                              [&](int query, int key) { return sees(at, query, key); });
  }
}

template <class T, int kD, int kParts, bool kLarge>
__global__ void __launch_bounds__(Tiles<kD, kParts, kLarge>::Backward::kThreads, 1)
    BackwardKernel(const __grid_constant__ BackwardParams p) {
  if constexpr (kCompiled<kLarge>) {
    Backward<T, typename Tiles<kD, kParts, kLarge>::Backward>(p);
  } else {
    __trap();
  }
}

// The launch traits for launch.cuh.
struct BackwardLaunch {
  using Params = BackwardParams;

  template <class AllTiles>
  using Tile = typename AllTiles::Backward;

  template <class Tile>
  static constexpr int kSharedBytes = Tile::kSharedBytes;

  template <class T, int kD, int kParts, bool kLarge>
  static constexpr auto Kernel() {
    return BackwardKernel<T, kD, kParts, kLarge>;
  }

  template <class Tile>
  static int64_t Blocks(const Sizes& s) {
    return int64_t{s.B} * s.Hkv * ((s.Sk + Tile::kBlockK - 1) / Tile::kBlockK);
  }
};

}  // namespace flashmask::cuda
