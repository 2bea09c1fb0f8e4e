// The backward kernel on Hopper of 16-bit numbers with more than 128 channels. Thread blocks stay and take one block of
// 64 keys after another. One warp loads, as for fewer channels. Two warpgroups compute: each the scores of half of the
// queries, transposed, keys by queries. They exchange weights and gradients through shared memory; then each computes
// dk, dv and dq of all keys and queries, for its half of the channels. Products of one query block run beside the
// exponentials of the next.
#pragma once

#include "gradients.cuh"
#include "hopper_backward_launch.cuh"
#include "rows.cuh"

namespace flashmask::cuda {

template <int kD_, int kDv_>
struct HopperBackwardWideTile {
  static constexpr int kD = kD_;
  static constexpr int kDv = kDv_;
  static constexpr int kBlockQ = 64;
  static constexpr int kBlockK = 64;
  static constexpr int kStages = 2;
  static constexpr int kDOutStages = kD + kDv <= 384 ? 2 : 1;
  static constexpr bool kFreesDOut = true;
  static constexpr int kComputing = 2 * kWarpgroup;  // threads
  static constexpr int kThreads = kComputing + kWarpgroup;
  static constexpr int kComputeRegisters = 240;
  static constexpr int kLoadRegisters = 24;
  static_assert(CanExchange(kThreads, kComputing, kComputeRegisters, kLoadRegisters));
  static constexpr int kKeyBytes = kTileBytes<kBlockK, kD>;
  static constexpr int kValueBytes = kTileBytes<kBlockK, kDv>;
  static constexpr int kQueryBytes = kTileBytes<kBlockQ, kD>;
  static constexpr int kDOutBytes = kTileBytes<kBlockQ, kDv>;
  static constexpr int kWeightBytes = kTileBytes<kBlockK, kBlockQ>;
  static constexpr int kDqBoxBytes = 64 * 128;
  static constexpr int kDqBytes = 2 * kDqBoxBytes;  // of a warpgroup
  static constexpr int kStatBytes = kBlockQ * 4;
  // In shared memory, in this order: keys, values, queries, dO, weights and gradients in turn, dq, row terms, entries,
  // barriers.
  static constexpr int kValuesAt = kKeyBytes;
  static constexpr int kQueriesAt = kValuesAt + kValueBytes;
  static constexpr int kDOutAt = kQueriesAt + kStages * kQueryBytes;
  static constexpr int kWeightsAt = kDOutAt + kDOutStages * kDOutBytes;
  static constexpr int kDqAt = kWeightsAt + 4 * kWeightBytes;
  static constexpr int kStatsAt = kDqAt + 2 * kDqBytes;
  static constexpr int kEntriesAt = kStatsAt + kStages * 3 * kStatBytes;
  static constexpr int kBarriersAt = kEntriesAt + kStages * 16;
  static constexpr int kSharedBytes = kBarriersAt + BackwardBarriers<HopperBackwardWideTile>::kBytes;
  static_assert(kSharedBytes <= kLargeShared);
};

constexpr int kWidePageBytes = 64 * kPageRowBytes;

// Where a channel begins in a tile of 64 rows.
__device__ inline uint32_t ChannelOffset(int channel) { return channel / 64 * kWidePageBytes + channel % 64 * 2; }

// The channels of one of two warpgroups, out of kD: whole pages, and half of the last page if they are odd in number.
template <int kD>
struct OwnChannels {
  static constexpr int kWhole = kD / 128 * 64;
  static constexpr int kHalf = kD % 128 / 2;
  static __device__ int WholeAt(int group) { return group * kWhole; }
  static __device__ int HalfAt(int group) { return 2 * kWhole + group * kHalf; }
};

// Sums of 64 rows and the channels of a warpgroup.
template <int kD>
struct OwnSums {
  using Own = OwnChannels<kD>;
  float whole[1][Own::kWhole / 8][4];
  float half[1][Own::kHalf == 0 ? 1 : Own::kHalf / 8][4];

  __device__ void Clear() {
    cuda::Clear(whole);
    cuda::Clear(half);
  }

  __device__ void Pin() {
    cuda::Pin(whole[0]);
    if constexpr (Own::kHalf != 0) cuda::Pin(half[0]);
  }

  // Issues the addition of A B, summed over the 64 rows of both tiles' queries: A is 64 keys x 64 queries.
  template <class T>
  __device__ void Issue(uint32_t a, uint32_t b, int group) {
    const Descriptor left = Descriptor::OfRows(a);
    const auto wholeRight = Descriptor::OfColumns<kWidePageBytes>(b + ChannelOffset(Own::WholeAt(group)));
    const auto halfRight = Descriptor::OfColumns<kWidePageBytes>(b + ChannelOffset(Own::HalfAt(group)));
    Pin();
    FenceProducts();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int rows = k * 16 * kPageRowBytes;
      Product16<true>(whole[0], left.At(k * 32), wholeRight.At(rows), true, T());
      if constexpr (Own::kHalf != 0) Product16<true>(half[0], left.At(k * 32), halfRight.At(rows), true, T());
    }
    CommitProducts();
  }

  __device__ void Store(float* head, const Tensor32& to, float factor, int warpRow, int rows, int group) const {
    StoreRows(head, to, whole, factor, warpRow, Own::WholeAt(group), rows);
    if constexpr (Own::kHalf != 0) StoreRows(head, to, half, factor, warpRow, Own::HalfAt(group), rows);
  }
};

// A warpgroup that computes. Dropout is a parameter because it needs registers, which others do not have to spare.
template <class T, class Tile_, bool kDrops>
struct WideKeys {
  using Tile = Tile_;
  static constexpr int kN = 4;  // blocks of 8 in a warpgroup's half of the queries
  // dq is computed in two parts, which take turns in registers.
  static constexpr int kFirst = 64;
  static constexpr int kSecond = Tile::kD / 2 - kFirst;

  const HopperBackwardParams& params;
  const BackwardParams& p;
  uint8_t* shared;
  uint32_t base;
  BackwardBarriers<Tile> barriers;
  int group;
  int warpRow;
  bool adds;  // whether this thread starts the additions of dq
  Place<Tile::kStages> queries;
  Place<Tile::kDOutStages> dOut;
  uint32_t keysParity = 0;
  // Two pairs of tiles take turns: while one is written, products may read the one before.
  uint32_t weightsTile;
  KeyBlock keys;
  Factors factors;
  QueryEntry entry;  // of the scores
  OwnSums<Tile::kD> dk;
  OwnSums<Tile::kDv> dv;
  float scores[1][kN][4];
  float gradients[1][kN][4];
  uint32_t kept;  // 4 bits for each block of 8 queries

  static __device__ void Compute(const HopperBackwardParams& params, uint8_t* shared, BackwardBarriers<Tile> barriers) {
    WideKeys(params, shared, barriers).ComputeAll();
  }

  __device__ WideKeys(const HopperBackwardParams& params, uint8_t* shared, BackwardBarriers<Tile> barriers)
      : params(params),
        p(params.call),
        shared(shared),
        base(SharedAddress(shared)),
        barriers(barriers),
        group(threadIdx.x / kWarpgroup),
        warpRow(threadIdx.x % kWarpgroup / kWarp * 16),
        adds(threadIdx.x % kWarpgroup == 0),
        weightsTile(base + Tile::kWeightsAt) {}

  __device__ void ReadEntry() {
    WaitParity(barriers.queriesFull(queries.stage), queries.parity);
    entry = reinterpret_cast<const QueryEntry*>(shared + Tile::kEntriesAt)[queries.stage];
  }

  __device__ uint32_t QueriesTile() const { return base + Tile::kQueriesAt + queries.stage * Tile::kQueryBytes; }
  __device__ uint32_t DOutTile() const { return base + Tile::kDOutAt + dOut.stage * Tile::kDOutBytes; }
  __device__ uint32_t GradientsTile() const { return weightsTile + Tile::kWeightBytes; }
  __device__ int Head() const { return keys.keyHead * keys.group + entry.head; }
  __device__ int OwnQuery() const { return entry.block * Tile::kBlockQ + group * 32; }

  // A term of two rows of block n.
  __device__ float2 RowTerm(int which, int n) const {
    const uint8_t* stats = shared + Tile::kStatsAt + (queries.stage * 3 + which) * Tile::kStatBytes;
    return *reinterpret_cast<const float2*>(stats + (group * 32 + ElementColumn(n, 0)) * 4);
  }

  __device__ void IssueScores() {
    IssueTransposed<T, Tile::kD, Tile::kBlockK, Tile::kBlockQ>(scores[0], base,
                                                               QueriesTile() + group * 32 * kPageRowBytes);
  }

  // Issues products of values and dO.
  __device__ void IssueGradients() {
    WaitParity(barriers.dOutFull(dOut.stage), dOut.parity);
    IssueTransposed<T, Tile::kDv, Tile::kBlockK, Tile::kBlockQ>(gradients[0], base + Tile::kValuesAt,
                                                                DOutTile() + group * 32 * kPageRowBytes);
  }

  // Turns scores into weights, and writes these for dv.
  __device__ void Weigh() {
    Pin(scores[0]);
    if (entry.kind != kLive) {
      const int64_t maskHead = MaskHeadOf(p.mask, keys.b, Head(), p.sizes.H);
      const int4* spans = p.mask.spans == nullptr ? nullptr : p.mask.spans + maskHead * p.sizes.Sk;
      HideMaskedKeys(scores[0], spans, p.mask.causal, keys.c0 + warpRow, OwnQuery(), p.sizes.Sq, p.sizes.Sk);
    }
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 reference = RowTerm(0, n);
      const float2 weight = RowTerm(1, n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool second = i % 2 == 1;
        const float power = fmaf(scores[0][n][i], factors.scale2, second ? -reference.y : -reference.x);
        scores[0][n][i] = Exp2(power) * (second ? weight.y : weight.x);
      }
    }
    if constexpr (kDrops) {
      StoreKept();
    } else {
      StoreTile<T, 1, Tile::kBlockK, 0>(weightsTile, scores, warpRow, group * 32);
    }
  }

  // Draws which weights are kept, and writes these.
  __device__ void StoreKept() {
    kept = 0;
    float keptWeights[1][kN][4];
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      kept |= KeptTransposed(p.dropout, keys.b * p.sizes.H + Head(), OwnQuery() + ElementColumn(n, 0),
                             keys.c0 + warpRow + ElementRow(0, 0))
              << n * 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) keptWeights[0][n][i] = kept >> (n * 4 + i) & 1 ? scores[0][n][i] : 0.f;
    }
    StoreTile<T, 1, Tile::kBlockK, 0>(weightsTile, keptWeights, warpRow, group * 32);
  }

  // Turns products of values and dO into gradients of scores, writes these, and waits for those of the other
  // warpgroup.
  __device__ void Grade() {
    Pin(gradients[0]);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 shift = RowTerm(2, n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float product = kDrops && !(kept >> (n * 4 + i) & 1) ? 0.f : gradients[0][n][i];
        const float offset = -(i % 2 == 1 ? shift.y : shift.x) * factors.offset;
        gradients[0][n][i] = scores[0][n][i] * fmaf(product, factors.gradient, offset);
      }
    }
    StoreTile<T, 1, Tile::kBlockK, 0>(GradientsTile(), gradients, warpRow, group * 32);
    FenceAsync();
    SyncThreads<Tile::kComputing>(1);
  }

  // Issues dq of 64 queries from `channel` on.
  template <int kBlocks>
  __device__ void IssueDq(float (&dq)[kBlocks][4], uint32_t gradientsTile, int channel) {
    const auto left = Descriptor::OfColumns<kWidePageBytes>(gradientsTile);
    const auto right = Descriptor::OfColumns<kWidePageBytes>(base + ChannelOffset(channel));
    Pin(dq);
    FenceProducts();
#pragma unroll
    for (int k = 0; k < Tile::kBlockK / 16; ++k) {
      const int rows = k * 16 * kPageRowBytes;
      Product16<true, true>(dq, left.At(rows), right.At(rows), k != 0, T());
    }
    CommitProducts();
  }

  // Adds dq of 64 queries of head h, from row and channel on, to memory.
  template <int kBlocks>
  __device__ void AddDq(const float (&dq)[kBlocks][4], int channel, int h, int dqRow) {
    const uint32_t tile = base + Tile::kDqAt + group * Tile::kDqBytes;
    if (adds) WaitBulkRead();
    SyncThreads<kWarpgroup>(2 + group);
#pragma unroll
    for (int n = 0; n < kBlocks; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warpRow + ElementRow(0, 2 * half);
        const int column = ElementColumn(n % 4, 0);
        const uint32_t at =
            tile + n / 4 * Tile::kDqBoxBytes + row * kPageRowBytes + (((column / 4) ^ (row & 7)) << 4) + column % 4 * 4;
        StoreSharedPair(at, dq[n][2 * half] * factors.dq, dq[n][2 * half + 1] * factors.dq);
      }
    }
    FenceAsync();
    SyncThreads<kWarpgroup>(2 + group);
    if (adds) {
      for (int box = 0; box < kBlocks / 4; ++box) {
        AddBox(&params.dq, tile + box * Tile::kDqBoxBytes, channel + box * 32, dqRow, h, keys.b);
      }
      CommitBulk();
    }
  }

  __device__ int SecondAt() const {
    using Own = OwnChannels<Tile::kD>;
    return Own::kHalf != 0 ? Own::HalfAt(group) : Own::WholeAt(group) + kFirst;
  }

  __device__ void FreeDOut() {
    dv.Pin();
    ArriveAsWarp(barriers.dOutFree(dOut.stage));
    dOut.Advance();
  }

  __device__ void FreeQueries(int stage) {
    dk.Pin();
    ArriveAsWarp(barriers.free(stage));
  }

  // All query blocks that see the keys. `entry` is the first.
  __device__ void WalkQueries() {
    WaitParity(barriers.keysFull(), keysParity);
    keysParity ^= 1;
    IssueScores();
    IssueGradients();
    WaitProducts<1>();
    Weigh();
    WaitProducts<0>();
    Grade();
    for (;;) {
      const int stage = queries.stage;
      const uint32_t queriesTile = QueriesTile();
      const int h = Head();
      const int r0 = entry.block * Tile::kBlockQ;
      dv.template Issue<T>(weightsTile, DOutTile(), group);
      queries.Advance();
      ReadEntry();
      const bool more = entry.block >= 0;
      IssueScores();
      dk.template Issue<T>(GradientsTile(), queriesTile, group);
      const uint32_t gradientsTile = GradientsTile();
      weightsTile = 2 * (base + Tile::kWeightsAt + Tile::kWeightBytes) - weightsTile;
      if (p.accumulateDq) {
        float first[kFirst / 8][4];
        float second[kSecond / 8][4];
        IssueDq(first, gradientsTile, OwnChannels<Tile::kD>::WholeAt(group));
        WaitProducts<2>();
        FreeDOut();
        if (more) Weigh();
        WaitProducts<1>();
        FreeQueries(stage);
        WaitProducts<0>();
        Pin(first);
        IssueDq(second, gradientsTile, SecondAt());
        AddDq(first, OwnChannels<Tile::kD>::WholeAt(group), h, r0);
        if (!more) {
          WaitProducts<0>();
          Pin(second);
          AddDq(second, SecondAt(), h, r0);
          return;
        }
        IssueGradients();
        WaitProducts<1>();
        Pin(second);
        AddDq(second, SecondAt(), h, r0);
        WaitProducts<0>();
      } else {
        WaitProducts<0>();
        FreeDOut();
        FreeQueries(stage);
        if (!more) return;
        Weigh();
        IssueGradients();
        WaitProducts<0>();
      }
      Grade();
    }
  }

  __device__ void StoreKeys() const {
    const Factors last = FactorsOf<T, 1>(p, keys.keyBatchHead);  // read again, which saves registers in the loop
    float* dkHead = p.dk.data + keys.b * p.dk.batch + keys.keyHead * p.dk.head + keys.c0 * p.dk.row;
    float* dvHead = p.dv.data + keys.b * p.dv.batch + keys.keyHead * p.dv.head + keys.c0 * p.dv.row;
    dk.Store(dkHead, p.dk, last.dk, warpRow, p.sizes.Sk - keys.c0, group);
    dv.Store(dvHead, p.dv, last.dv, warpRow, p.sizes.Sk - keys.c0, group);
  }

  __device__ void ComputeAll() {
    for (;;) {
      ReadEntry();
      if (entry.work < 0) break;
      keys = TakenKeys<Tile>(entry.work, p.sizes, p.mask);
      factors = FactorsOf<T, 1>(p, keys.keyBatchHead);
      dk.Clear();
      dv.Clear();
      if (entry.block >= 0) {
        WalkQueries();
        ArriveAsWarp(barriers.keysFree());
      }
      FreeQueries(queries.stage);
      queries.Advance();
      if (!HasNotFinite(p, keys.keyBatchHead)) StoreKeys();
    }
    // Shared memory must stay until it is read.
    if (adds) WaitBulkRead();
  }
};

template <class T>
cudaError_t LaunchHopperBackwardWide(const HopperBackwardHeads& heads, const BackwardParams& call,
                                     cudaStream_t stream) {
  const auto launch = heads.kD == 256    ? LaunchHopperBackwardTile<T, WideKeys, HopperBackwardWideTile<256, 256>>
                      : heads.kDv == 192 ? LaunchHopperBackwardTile<T, WideKeys, HopperBackwardWideTile<192, 192>>
                                         : LaunchHopperBackwardTile<T, WideKeys, HopperBackwardWideTile<192, 128>>;
  return launch(call, stream);
}

}  // namespace flashmask::cuda
