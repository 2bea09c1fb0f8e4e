// The backward kernel on Hopper of split floats with more than 64 channels. Thread blocks stay and take one block of 64
// keys after another. One warp loads. One warpgroup computes scores, weights, dv and dq, the other one gradients of
// scores and dk, because the sums of one gradient and of a tile of it fill the registers. Weights and gradients go from
// one to the other through shared memory.
#pragma once

#include "gradients.cuh"
#include "hopper_backward_launch.cuh"
#include "hopper_split.cuh"
#include "rows.cuh"

namespace flashmask::cuda {

template <int kD_>
struct SplitBackwardTile {
  static constexpr int kD = kD_;
  static constexpr int kNumberParts = 2;
  static constexpr int kBlockQ = 64;
  static constexpr int kBlockK = 64;
  static constexpr int kCluster = 1;
  static constexpr int kStages = 2;  // of queries; all else has one
  static constexpr int kComputing = 2 * kWarpgroup;
  static constexpr int kThreads = kComputing + kWarpgroup;
  static constexpr int kComputeRegisters = 232;
  static constexpr int kLoadRegisters = 40;
  static_assert(CanExchange(kThreads, kComputing, kComputeRegisters, kLoadRegisters));
  static constexpr int kChannelBytes = kNumberParts * kTileBytes<64, kD>;  // of keys, values, queries and dO
  static constexpr int kGradientBytes = kNumberParts * kTileBytes<kBlockK, kBlockQ>;
  static constexpr int kDqBoxes = kD / 32;
  static constexpr int kDqBoxBytes = kBlockQ * 128;
  static constexpr int kWeightBytes = kBlockK * kBlockQ * 4;
  static constexpr int kStatBytes = kBlockQ * 4;
  // In shared memory, in this order: keys, values, queries, dO, gradients, dq, weights, row terms, entries, barriers.
  static constexpr int kValuesAt = kChannelBytes;
  static constexpr int kQueriesAt = 2 * kChannelBytes;
  static constexpr int kDOutAt = kQueriesAt + kStages * kChannelBytes;
  static constexpr int kGradientsAt = kDOutAt + kChannelBytes;
  static constexpr int kDqAt = kGradientsAt + kGradientBytes;
  static constexpr int kWeightsAt = kDqAt + kDqBoxes * kDqBoxBytes;
  static constexpr int kStatsAt = kWeightsAt + kWeightBytes;
  static constexpr int kEntriesAt = kStatsAt + kStages * 3 * kStatBytes;
  static constexpr int kBarriersAt = kEntriesAt + kStages * 16;
  static constexpr int kSharedBytes = kBarriersAt + (8 + 2 * kStages) * 8;
  static_assert(kSharedBytes <= kLargeShared);
};

// The barriers of a thread block.
template <class Tile>
struct SplitBarriers {
  uint32_t base;
  __device__ uint32_t keysFull() const { return base; }
  __device__ uint32_t keysFree() const { return base + 8; }
  __device__ uint32_t dOutFull() const { return base + 16; }
  __device__ uint32_t dOutFree() const { return base + 24; }
  __device__ uint32_t weightsFull() const { return base + 32; }
  __device__ uint32_t weightsFree() const { return base + 40; }
  __device__ uint32_t gradientsFull() const { return base + 48; }
  __device__ uint32_t gradientsFree() const { return base + 56; }
  __device__ uint32_t queriesFull(int stage) const { return base + 64 + stage * 16; }
  __device__ uint32_t queriesFree(int stage) const { return base + 72 + stage * 16; }

  __device__ void Init() const {
    // One warp loads; each warp that computes arrives for itself.
    constexpr int kWarps = kWarpgroup / kWarp;
    InitBarrier(keysFull(), 1);
    InitBarrier(keysFree(), 2 * kWarps);
    InitBarrier(dOutFull(), 1);
    InitBarrier(dOutFree(), 2 * kWarps);
    InitBarrier(weightsFull(), kWarps);
    InitBarrier(weightsFree(), kWarps);
    InitBarrier(gradientsFull(), kWarps);
    InitBarrier(gradientsFree(), kWarps);
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      InitBarrier(queriesFull(stage), 1);
      InitBarrier(queriesFree(stage), 2 * kWarps);
    }
    FenceBarrierInit();
  }
};

// What the loading warp starts.
template <class Tile>
struct SplitCopies {
  const HopperBackwardParams& p;
  uint32_t shared;
  QueryEntry* entries;
  SplitBarriers<Tile> barriers;
  Place<Tile::kStages> place;
  uint32_t keysParity = 1;
  uint32_t dOutParity = 1;

  __device__ SplitCopies(const HopperBackwardParams& p, uint8_t* shared, SplitBarriers<Tile> barriers)
      : p(p),
        shared(SharedAddress(shared)),
        entries(reinterpret_cast<QueryEntry*>(shared + Tile::kEntriesAt)),
        barriers(barriers) {}

  // Copies 64 rows.
  __device__ void Copy(int to, const CUtensorMap* map, uint32_t full, int row, int head, int batch) const {
    CopyTiles<Tile::kNumberParts, Tile::kD, 64>(shared + to, map, full, row, head, batch, p.call.sizes.B);
  }

  // Tells what has no tile.
  __device__ void Tell(const QueryEntry& entry) {
    WaitAsWarp(barriers.queriesFree(place.stage), place.parity ^ 1);
    if (IsFirstLane()) {
      entries[place.stage] = entry;
      Arrive(barriers.queriesFull(place.stage));
    }
    place.Advance();
  }

  __device__ void TellEnd(const QueryEntry& end) { Tell(end); }

  __device__ void LoadKeys(const KeyBlock& keys) {
    WaitAsWarp(barriers.keysFree(), keysParity);
    keysParity ^= 1;
    if (!IsFirstLane()) return;
    ArriveExpecting(barriers.keysFull(), 2 * Tile::kChannelBytes);
    Copy(0, &p.k, barriers.keysFull(), keys.c0, keys.keyHead, keys.b);
    Copy(Tile::kValuesAt, &p.v, barriers.keysFull(), keys.c0, keys.keyHead, keys.b);
  }

  __device__ void LoadQueries(const KeyBlock& keys, const QueryEntry& entry) {
    const BackwardParams& call = p.call;
    const int h = keys.keyHead * keys.group + entry.head;
    const int r0 = entry.block * Tile::kBlockQ;
    const int64_t row = static_cast<int64_t>(keys.b * call.sizes.H + h) * call.rowsOfHead + r0;
    WaitAsWarp(barriers.queriesFree(place.stage), place.parity ^ 1);
    if (IsFirstLane()) {
      const uint32_t full = barriers.queriesFull(place.stage);
      entries[place.stage] = entry;
      ArriveExpecting(full, Tile::kChannelBytes + 3 * Tile::kStatBytes);
      Copy(Tile::kQueriesAt + place.stage * Tile::kChannelBytes, &p.q, full, r0, h, keys.b);
      CopyRowTerms<Tile::kStatBytes>(shared + Tile::kStatsAt + place.stage * 3 * Tile::kStatBytes, call, row, full);
    }
    place.Advance();
    WaitAsWarp(barriers.dOutFree(), dOutParity);
    dOutParity ^= 1;
    if (!IsFirstLane()) return;
    ArriveExpecting(barriers.dOutFull(), Tile::kChannelBytes);
    Copy(Tile::kDOutAt, &p.dOut, barriers.dOutFull(), r0, h, keys.b);
  }
};

// What both warpgroups have in common.
template <class Tile>
struct SplitWarpgroup {
  static constexpr int kN = Tile::kBlockQ / 8;
  using Left = uint32_t[Tile::kNumberParts][kN / 2][4];

  const HopperBackwardParams& params;
  uint8_t* shared;
  SplitBarriers<Tile> barriers;
  uint32_t base = SharedAddress(shared);
  int warpRow = threadIdx.x % kWarpgroup / kWarp * 16;
  Place<Tile::kStages> queries;
  uint32_t keysParity = 0;
  uint32_t parity = 0;  // of what has one stage
  QueryEntry entry;
  KeyBlock keys;
  Factors factors;

  __device__ void ReadEntry() {
    WaitParity(barriers.queriesFull(queries.stage), queries.parity);
    entry = reinterpret_cast<const QueryEntry*>(shared + Tile::kEntriesAt)[queries.stage];
  }

  // Takes the key block of `entry`.
  __device__ void TakeKeys() {
    keys = TakenKeys<Tile>(entry.work, params.call);
    factors = FactorsOf<__half, Tile::kNumberParts>(params.call, keys.keyBatchHead);
  }

  __device__ void WaitKeys() {
    WaitParity(barriers.keysFull(), keysParity);
    keysParity ^= 1;
  }

  __device__ uint32_t QueriesTile() const {
    return base + Tile::kQueriesAt + Agreed(queries.stage) * Tile::kChannelBytes;
  }
  __device__ int Head() const { return keys.keyHead * keys.group + entry.head; }

  // Row term number `which` of the queries of block n.
  __device__ float2 RowTerm(int which, int n) const {
    const uint8_t* stats = shared + Tile::kStatsAt + (queries.stage * 3 + which) * Tile::kStatBytes;
    return reinterpret_cast<const float2*>(stats)[ElementColumn(n, 0) / 2];
  }

  // The weights of block n that this lane has, in both warpgroups.
  __device__ float4& PassedWeights(int n) const {
    return reinterpret_cast<float4*>(shared + Tile::kWeightsAt)[n * kWarpgroup + threadIdx.x % kWarpgroup];
  }

  __device__ void Store(const Tensor32& to, const float (&sums)[1][Tile::kD / 8][4], float factor) const {
    if (HasNotFinite(params.call, keys.keyBatchHead)) return;
    float* head = to.data + keys.b * to.batch + keys.keyHead * to.head + keys.c0 * to.row;
    StoreRows(head, to, sums, factor, warpRow, 0, params.call.sizes.Sk - keys.c0);
  }
};

// The warpgroup that computes weights, dv and dq. dq of a query block is computed a step later.
template <class T, class Tile, bool kDrops>
struct SplitWeights : SplitWarpgroup<Tile> {
  using Base = SplitWarpgroup<Tile>;
  using Base::barriers, Base::base, Base::entry, Base::factors, Base::keys, Base::parity, Base::queries, Base::warpRow;
  using Base::kN;

  const BackwardParams& p = Base::params.call;
  float scores[kN][4];  // then weights
  float dv[1][Tile::kD / 8][4];
  SumTile<Tile::kNumberParts, Tile::kD / 8> dvTile;
  float dq[Tile::kD / 8][4];
  int dqHead, dqRow;  // where dq belongs

  __device__ SplitWeights(const HopperBackwardParams& params, uint8_t* shared, SplitBarriers<Tile> barriers)
      : Base{params, shared, barriers} {}

  __device__ void Weigh() {
    Pin(scores);
    if (entry.kind != kLive) {
      HideKeys(scores,
               HiddenKeys<kN>(p, entry.kind, keys.b, Base::Head(), keys.c0 + warpRow, entry.block * Tile::kBlockQ));
    }
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 reference = Base::RowTerm(0, n);
      const float2 weight = Base::RowTerm(1, n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool second = i % 2 == 1;
        scores[n][i] = Exp2(fmaf(scores[n][i], factors.scale2, second ? -reference.y : -reference.x)) *
                       (second ? weight.y : weight.x);
      }
    }
    ArriveAsWarp(barriers.queriesFree(queries.stage));
  }

  // Gives dropped weights the other sign, by which both warpgroups know them.
  __device__ void Drop() {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const uint32_t kept =
          KeptTransposed(p.dropout, keys.b * p.sizes.H + Base::Head(),
                         entry.block * Tile::kBlockQ + ElementColumn(n, 0), keys.c0 + warpRow + ElementRow(0, 0));
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = kept >> i & 1 ? scores[n][i] : -scores[n][i];
    }
  }

  __device__ void PassWeights() {
    WaitParity(barriers.weightsFree(), parity ^ 1);
#pragma unroll
    for (int n = 0; n < kN; ++n) Base::PassedWeights(n) = {scores[n][0], scores[n][1], scores[n][2], scores[n][3]};
    ArriveAsWarp(barriers.weightsFull());
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] = kDrops ? fmaxf(scores[n][i], 0.f) : scores[n][i];
    }
  }

  __device__ void IssueDq() {
    WaitParity(barriers.gradientsFull(), parity ^ 1);
    const uint32_t shared = Agreed(base);
    IssueSplitFromColumns<T, Tile::kBlockK, Tile::kBlockQ>(dq, shared + Tile::kGradientsAt, shared);
  }

  // Adds dq to memory.
  __device__ void FinishDq() {
    WaitProducts<0>();
    Pin(dq);
    ArriveAsWarp(barriers.gradientsFree());
    const bool adds = threadIdx.x == 0;
    if (adds) WaitBulkRead();
    SyncThreads<kWarpgroup>(1);
    // Odd rows store blocks n and n ^ 2 the other way around. Otherwise the swizzle puts rows 2 r and 2 r + 1 into the
    // same banks.
    const bool odd = threadIdx.x / 4 % 2 == 1;
#pragma unroll
    for (int n = 0; n < Tile::kD / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warpRow + ElementRow(0, 2 * half);
        const int channel = ElementColumn(n, 0);
        const uint32_t at = base + Tile::kDqAt + channel / 32 * Tile::kDqBoxBytes + row * kPageRowBytes +
                            (((channel % 32 / 4) ^ (row & 7) ^ (odd ? 4 : 0)) << 4) + channel % 4 * 4;
        const float* pair = &dq[n][2 * half];
        const float* other = &dq[n ^ 2][2 * half];
        StoreSharedPair(at, (odd ? other[0] : pair[0]) * factors.dq, (odd ? other[1] : pair[1]) * factors.dq);
      }
    }
    FenceAsync();
    SyncThreads<kWarpgroup>(1);
    if (!adds) return;
    for (int box = 0; box < Tile::kDqBoxes; ++box) {
      AddBox(&Base::params.dq, base + Tile::kDqAt + box * Tile::kDqBoxBytes, box * 32, dqRow, dqHead, keys.b);
    }
    CommitBulk();
  }

  // A query block, and dq of the one before.
  template <bool kFirst>
  __device__ void Compute() {
    IssueScoresOf<T, Tile::kNumberParts, Tile::kD, Tile::kBlockK, Tile::kBlockQ, true>(scores, base,
                                                                                       Base::QueriesTile());
    if constexpr (!kFirst) IssueDq();
    WaitProducts<kFirst ? 0 : 1>();
    Weigh();
    if constexpr (kDrops) Drop();
    PassWeights();
    typename Base::Left left;
    PackParts<T>(left, scores);
    if constexpr (!kFirst) FinishDq();
    WaitParity(barriers.dOutFull(), parity);
    IssueSum<T, Tile::kBlockQ, false>(dv[0], dvTile, left, base + Tile::kDOutAt);
    WaitProducts<0>();
    FinishSum<Tile::kNumberParts>(dv[0], dvTile);
    ArriveAsWarp(barriers.dOutFree());
    parity ^= 1;
    dqHead = Base::Head();
    dqRow = entry.block * Tile::kBlockQ;
    queries.Advance();
    Base::ReadEntry();
  }

  // All query blocks that see the keys. `entry` is the first.
  __device__ void WalkQueries() {
    Base::WaitKeys();
    Compute<true>();
    while (entry.block >= 0) Compute<false>();
    IssueDq();
    FinishDq();
    ArriveAsWarp(barriers.keysFree());
  }

  __device__ void ComputeAll() {
    for (Base::ReadEntry(); entry.work >= 0; Base::ReadEntry()) {
      Base::TakeKeys();
      Clear(dv);
      if (entry.block >= 0) WalkQueries();
      ArriveAsWarp(barriers.queriesFree(queries.stage));
      queries.Advance();
      Base::Store(p.dv, dv, factors.dv);
    }
    // Shared memory must stay until it is read.
    if (threadIdx.x == 0) WaitBulkRead();
  }
};

// The warpgroup that computes gradients of scores, and dk.
template <class T, class Tile, bool kDrops>
struct SplitGradients : SplitWarpgroup<Tile> {
  using Base = SplitWarpgroup<Tile>;
  using Base::barriers, Base::base, Base::entry, Base::factors, Base::parity, Base::queries, Base::warpRow;
  using Base::kN;

  float gradients[kN][4];  // products of dO and v, then gradients of scores
  float dk[1][Tile::kD / 8][4];
  SumTile<Tile::kNumberParts, Tile::kD / 8> dkTile;

  __device__ SplitGradients(const HopperBackwardParams& params, uint8_t* shared, SplitBarriers<Tile> barriers)
      : Base{params, shared, barriers} {}

  // Turns products into gradients of scores.
  __device__ void Grade() {
    WaitParity(barriers.weightsFull(), parity);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 shift = Base::RowTerm(2, n);
      const float4 passed = Base::PassedWeights(n);
      const float weights[] = {passed.x, passed.y, passed.z, passed.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool dropped = kDrops && __float_as_uint(weights[i]) >> 31 != 0;
        const float product = dropped ? 0.f : gradients[n][i];
        const float offset = -(i % 2 == 1 ? shift.y : shift.x) * factors.offset;
        gradients[n][i] = fabsf(weights[i]) * fmaf(product, factors.gradient, offset);
      }
    }
    ArriveAsWarp(barriers.weightsFree());
  }

  __device__ void StoreGradients(const typename Base::Left& packed) const {
    WaitParity(barriers.gradientsFree(), parity ^ 1);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warpRow + ElementRow(0, 2 * half);
        const uint32_t at = base + Tile::kGradientsAt + ChunkOffset<Tile::kBlockK>(row, n) + threadIdx.x % 4 * 4;
#pragma unroll
        for (int part = 0; part < Tile::kNumberParts; ++part) {
          StoreShared(at + part * kTileBytes<Tile::kBlockK, Tile::kBlockQ>, packed[part][n / 2][n % 2 * 2 + half]);
        }
      }
    }
    FenceAsync();
    ArriveAsWarp(barriers.gradientsFull());
  }

  __device__ void Compute() {
    WaitParity(barriers.dOutFull(), parity);
    IssueScoresOf<T, Tile::kNumberParts, Tile::kD, Tile::kBlockK, Tile::kBlockQ, true>(
        gradients, base + Tile::kValuesAt, base + Tile::kDOutAt);
    WaitProducts<0>();
    Pin(gradients);
    ArriveAsWarp(barriers.dOutFree());
    Grade();
    typename Base::Left left;
    PackParts<T>(left, gradients);
    StoreGradients(left);
    IssueSum<T, Tile::kBlockQ, false>(dk[0], dkTile, left, Base::QueriesTile());
    WaitProducts<0>();
    FinishSum<Tile::kNumberParts>(dk[0], dkTile);
    ArriveAsWarp(barriers.queriesFree(queries.stage));
    parity ^= 1;
    queries.Advance();
    Base::ReadEntry();
  }

  // All query blocks that see the keys. `entry` is the first.
  __device__ void WalkQueries() {
    Base::WaitKeys();
    while (entry.block >= 0) Compute();
    ArriveAsWarp(barriers.keysFree());
  }

  __device__ void ComputeAll() {
    for (Base::ReadEntry(); entry.work >= 0; Base::ReadEntry()) {
      Base::TakeKeys();
      Clear(dk);
      if (entry.block >= 0) WalkQueries();
      ArriveAsWarp(barriers.queriesFree(queries.stage));
      queries.Advance();
      Base::Store(Base::params.call.dk, dk, factors.dk);
    }
  }
};

template <class T, class Tile_, bool kDrops>
struct SplitKeys {
  using Tile = Tile_;
  using Barriers = SplitBarriers<Tile>;

  static __device__ void Run(const HopperBackwardParams& p, uint8_t* shared, Barriers barriers) {
    RunRoles<Tile>([&] { BackwardLoader<Tile, SplitCopies<Tile>>{p.call, {p, shared, barriers}}.LoadAll(); },
                   [&] {
                     if (threadIdx.x < kWarpgroup) {
                       SplitWeights<T, Tile, kDrops>(p, shared, barriers).ComputeAll();
                     } else {
                       SplitGradients<T, Tile, kDrops>(p, shared, barriers).ComputeAll();
                     }
                   });
  }
};

}  // namespace flashmask::cuda
