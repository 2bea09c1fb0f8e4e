// The backward kernel of 16-bit numbers on Hopper. Thread blocks stay and take one block of 128 keys after another. One
// warp loads: it finds the live query blocks of all query heads of the key head and starts their copies. Two warpgroups
// compute, each with 64 keys, whose dk and dv stay in registers. Scores are computed transposed, keys by queries, so
// that weights and their gradients are left operands in registers. Both warpgroups put the gradients into shared
// memory for dq, which the copy engine adds up in memory.
#pragma once

#include "gradients.cuh"
#include "hopper_backward_launch.cuh"
#include "rows.cuh"

namespace flashmask::cuda {

// A query block has so many rows that each warpgroup computes 64 x 64 of dq.
template <int kD_>
struct HopperBackwardTile {
  static constexpr int kD = kD_;
  static constexpr int kBlockQ = kD == 64 ? 128 : 64;
  static constexpr int kBlockK = 128;
  static constexpr int kStages = 2;
  static constexpr int kCluster = 1;                            // thread blocks that share a key block
  static constexpr int kComputing = kBlockK / 64 * kWarpgroup;  // threads
  static constexpr int kThreads = kComputing + kWarpgroup;
  static constexpr int kComputeRegisters = 240;
  static constexpr int kLoadRegisters = 24;
  static_assert(CanExchange(kThreads, kComputing, kComputeRegisters, kLoadRegisters));
  static constexpr int kKeyBytes = kTileBytes<kBlockK, kD>;
  static constexpr int kQueryBytes = kTileBytes<kBlockQ, kD>;
  static constexpr int kGradientBytes = kTileBytes<kBlockK, kBlockQ>;
  static constexpr int kDqBoxBytes = 64 * 128;
  static constexpr int kDqBytes = 2 * kDqBoxBytes;  // of a warpgroup
  static constexpr int kStatBytes = kBlockQ * 4;
  // In shared memory, in this order: keys, values, queries, dO, gradients, dq, row terms, entries, barriers.
  static constexpr int kValuesAt = kKeyBytes;
  static constexpr int kQueriesAt = 2 * kKeyBytes;
  static constexpr int kDOutAt = kQueriesAt + kStages * kQueryBytes;
  static constexpr int kGradientsAt = kDOutAt + kStages * kQueryBytes;
  static constexpr int kDqAt = kGradientsAt + 2 * kGradientBytes;
  static constexpr int kStatsAt = kDqAt + 2 * kDqBytes;
  static constexpr int kEntriesAt = kStatsAt + kStages * 3 * kStatBytes;
  static constexpr int kBarriersAt = kEntriesAt + kStages * 16;
  static constexpr int kSharedBytes = kBarriersAt + (2 + 3 * kStages) * 8;
};

// The barriers of a thread block.
template <class Tile>
struct BackwardBarriers {
  uint32_t base;
  __device__ uint32_t keysFull() const { return base; }
  __device__ uint32_t keysFree() const { return base + 8; }
  __device__ uint32_t queriesFull(int stage) const { return base + 16 + stage * 24; }
  __device__ uint32_t dOutFull(int stage) const { return base + 24 + stage * 24; }
  __device__ uint32_t free(int stage) const { return base + 32 + stage * 24; }

  __device__ void Init() const {
    // One warp loads; each warp that computes frees for itself.
    constexpr int kWarps = Tile::kComputing / kWarp;
    InitBarrier(keysFull(), 1);
    InitBarrier(keysFree(), kWarps);
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      InitBarrier(queriesFull(stage), 1);
      InitBarrier(dOutFull(stage), 1);
      InitBarrier(free(stage), kWarps);
    }
    FenceBarrierInit();
  }
};

// What the loading warp starts.
template <class Tile>
struct BackwardCopies {
  const HopperBackwardParams& p;
  uint32_t shared;
  QueryEntry* entries;
  BackwardBarriers<Tile> barriers;
  Place<Tile::kStages> place;
  uint32_t keysParity = 1;

  __device__ BackwardCopies(const HopperBackwardParams& p, uint8_t* shared, BackwardBarriers<Tile> barriers)
      : p(p),
        shared(SharedAddress(shared)),
        entries(reinterpret_cast<QueryEntry*>(shared + Tile::kEntriesAt)),
        barriers(barriers) {}

  // Tells what has no tile.
  __device__ void Tell(const QueryEntry& entry) {
    WaitAsWarp(barriers.free(place.stage), place.parity ^ 1);
    if (IsFirstLane()) {
      entries[place.stage] = entry;
      Arrive(barriers.queriesFull(place.stage));
      Arrive(barriers.dOutFull(place.stage));
    }
    place.Advance();
  }

  __device__ void LoadKeys(const KeyBlock& keys) {
    WaitAsWarp(barriers.keysFree(), keysParity);
    keysParity ^= 1;
    if (!IsFirstLane()) return;
    ArriveExpecting(barriers.keysFull(), 2 * Tile::kKeyBytes);
    CopyPages<Tile::kD, Tile::kBlockK>(shared, &p.k, barriers.keysFull(), keys.c0, keys.keyHead, keys.b);
    CopyPages<Tile::kD, Tile::kBlockK>(shared + Tile::kValuesAt, &p.v, barriers.keysFull(), keys.c0, keys.keyHead,
                                       keys.b);
  }

  __device__ void LoadQueries(const KeyBlock& keys, const QueryEntry& entry) {
    const BackwardParams& call = p.call;
    const int h = keys.keyHead * keys.group + entry.head;
    const int r0 = entry.block * Tile::kBlockQ;
    const int64_t row = static_cast<int64_t>(keys.b * call.sizes.H + h) * call.rowsOfHead + r0;
    WaitAsWarp(barriers.free(place.stage), place.parity ^ 1);
    if (IsFirstLane()) {
      const uint32_t full = barriers.queriesFull(place.stage);
      const uint32_t stats = shared + Tile::kStatsAt + place.stage * 3 * Tile::kStatBytes;
      entries[place.stage] = entry;
      ArriveExpecting(full, Tile::kQueryBytes + 3 * Tile::kStatBytes);
      CopyPages<Tile::kD, Tile::kBlockQ>(shared + Tile::kQueriesAt + place.stage * Tile::kQueryBytes, &p.q, full, r0, h,
                                         keys.b);
      CopyBulk(stats, call.reference + row, Tile::kStatBytes, full);
      CopyBulk(stats + Tile::kStatBytes, call.weight + row, Tile::kStatBytes, full);
      CopyBulk(stats + 2 * Tile::kStatBytes, call.rowShift + row, Tile::kStatBytes, full);
      ArriveExpecting(barriers.dOutFull(place.stage), Tile::kQueryBytes);
      CopyPages<Tile::kD, Tile::kBlockQ>(shared + Tile::kDOutAt + place.stage * Tile::kQueryBytes, &p.dOut,
                                         barriers.dOutFull(place.stage), r0, h, keys.b);
    }
    place.Advance();
  }
};

// The work of a warpgroup that computes. Dropout is a parameter because it needs registers, which others do not have to
// spare.
template <class T, class Tile, bool kDrops>
__device__ inline void ComputeKeys(const HopperBackwardParams& params, uint8_t* shared,
                                   BackwardBarriers<Tile> barriers) {
  constexpr int kBlockQ = Tile::kBlockQ;
  constexpr int kBlockK = Tile::kBlockK;
  constexpr int kD = Tile::kD;
  constexpr int kN = 8;  // blocks of 8 in a part of 64 queries
  constexpr int kParts = kBlockQ / 64;
  constexpr int kKeyPage = kBlockK * kPageRowBytes;
  const BackwardParams& p = params.call;
  const uint32_t base = SharedAddress(shared);
  const int group = threadIdx.x / kWarpgroup;
  const int warpRow = threadIdx.x / kWarp * 16;
  const bool adds = threadIdx.x % kWarpgroup == 0;
  const uint32_t ownKeys = base + group * 64 * kPageRowBytes;
  // The 64 queries and 64 channels of dq that this warpgroup computes.
  const int dqQueries = kD == 64 ? group : 0;
  const int dqChannels = kD == 64 ? 0 : group;
  const uint32_t dqTile = base + Tile::kDqAt + group * Tile::kDqBytes;
  Place<Tile::kStages> place;
  uint32_t keysParity = 0;
  // Two tiles take turns: while one is written, the other warpgroup may read the one before.
  uint32_t gradientsTile = base + Tile::kGradientsAt;

  const auto nextEntry = [&]() {
    WaitParity(barriers.queriesFull(place.stage), place.parity);
    return reinterpret_cast<const QueryEntry*>(shared + Tile::kEntriesAt)[place.stage];
  };
  const auto freeStage = [&]() {
    ArriveAsWarp(barriers.free(place.stage));
    place.Advance();
  };

  for (;;) {
    QueryEntry entry = nextEntry();
    if (entry.work < 0) break;
    const KeyBlock keys = TakenKeys<Tile>(entry.work, p.sizes, p.mask);
    float dk[1][kD / 8][4];
    float dv[1][kD / 8][4];
    Clear(dk);
    Clear(dv);
    const Factors factors = FactorsOf<T, 1>(p, keys.keyBatchHead);
    // Adds dq of 64 queries from dqRow on to memory.
    const auto addDq = [&](const float (&dq)[8][4], int dqHead, int dqRow) {
      if (adds) WaitBulkRead();
      SyncThreads<kWarpgroup>(2 + group);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = warpRow % 64 + ElementRow(0, 2 * half);
          const int channel = ElementColumn(n, 0);
          const uint32_t at = dqTile + channel / 32 * Tile::kDqBoxBytes + row * kPageRowBytes +
                              (((channel % 32 / 4) ^ (row & 7)) << 4) + channel % 4 * 4;
          StoreSharedPair(at, dq[n][2 * half] * factors.dq, dq[n][2 * half + 1] * factors.dq);
        }
      }
      FenceAsync();
      SyncThreads<kWarpgroup>(2 + group);
      if (adds) {
        for (int box = 0; box < 2; ++box) {
          AddBox(&params.dq, dqTile + box * Tile::kDqBoxBytes, dqChannels * 64 + box * 32, dqRow, dqHead, keys.b);
        }
        CommitBulk();
      }
    };
    const bool any = entry.block >= 0;
    if (any) {
      WaitParity(barriers.keysFull(), keysParity);
      keysParity ^= 1;
    }
    for (; entry.block >= 0; entry = nextEntry()) {
      const uint32_t queries = base + Tile::kQueriesAt + place.stage * Tile::kQueryBytes;
      const uint32_t dOut = base + Tile::kDOutAt + place.stage * Tile::kQueryBytes;
      const int h = keys.keyHead * keys.group + entry.head;
      const int r0 = entry.block * kBlockQ;
      const bool partial = entry.kind != kLive;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const uint32_t partQueries = queries + part * 64 * kPageRowBytes;
        const uint32_t partDOut = dOut + part * 64 * kPageRowBytes;
        float scores[kN][4];
        float gradients[kN][4];
        IssueTransposed<T, kD, kBlockK, kBlockQ>(scores, ownKeys, partQueries);
        if (part == 0) WaitParity(barriers.dOutFull(place.stage), place.parity);
        IssueTransposed<T, kD, kBlockK, kBlockQ>(gradients, ownKeys + Tile::kValuesAt, partDOut);
        const float* stats =
            reinterpret_cast<const float*>(shared + Tile::kStatsAt + place.stage * 3 * Tile::kStatBytes) + part * 64;
        const auto stat = [&](int which, int n) {
          return *reinterpret_cast<const float2*>(stats + which * kBlockQ + ElementColumn(n, 0));
        };
        WaitProducts<1>();
        Pin(scores);
        if (partial) {
          const int4* spans =
              p.mask.spans == nullptr ? nullptr : p.mask.spans + MaskHeadOf(p.mask, keys.b, h, p.sizes.H) * p.sizes.Sk;
          HideMaskedKeys(scores, spans, p.mask.causal, keys.c0 + warpRow, r0 + part * 64, p.sizes.Sq, p.sizes.Sk);
        }
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const float2 reference = stat(0, n);
          const float2 weight = stat(1, n);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const bool second = i % 2 == 1;
            scores[n][i] = Exp2(fmaf(scores[n][i], factors.scale2, second ? -reference.y : -reference.x)) *
                           (second ? weight.y : weight.x);
          }
        }
        uint32_t left[kN / 2][4];
        uint32_t kept = ~0u;  // 4 bits for each block of 8 queries
        if constexpr (kDrops) {
          kept = 0;
          float keptWeights[kN][4];
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            kept |= KeptTransposed(p.dropout, keys.b * p.sizes.H + h, r0 + part * 64 + ElementColumn(n, 0),
                                   keys.c0 + warpRow + ElementRow(0, 0))
                    << n * 4;
#pragma unroll
            for (int i = 0; i < 4; ++i) keptWeights[n][i] = kept >> (n * 4 + i) & 1 ? scores[n][i] : 0.f;
          }
          PackLeft<T>(left, keptWeights);
        } else {
          PackLeft<T>(left, scores);
        }
        IssueFromRegisters<T, kBlockQ>(dv[0], left, partDOut);
        WaitProducts<1>();
        Pin(gradients);
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          const float2 shift = stat(2, n);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float product = kDrops && !(kept >> (n * 4 + i) & 1) ? 0.f : gradients[n][i];
            gradients[n][i] =
                scores[n][i] * fmaf(product, factors.gradient, -(i % 2 == 1 ? shift.y : shift.x) * factors.offset);
          }
        }
        uint32_t leftGradients[kN / 2][4];
        PackLeft<T>(leftGradients, gradients);
        IssueFromRegisters<T, kBlockQ>(dk[0], leftGradients, partQueries);
        if (p.accumulateDq) {
#pragma unroll
          for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int lower = 0; lower < 2; ++lower) {
              const int row = warpRow + ElementRow(0, 2 * lower);
              StoreShared(gradientsTile + ChunkOffset<kBlockK>(row, part * 8 + n) + threadIdx.x % 4 * 4,
                          leftGradients[n / 2][n % 2 * 2 + lower]);
            }
          }
        }
        if (part + 1 < kParts) {
          WaitProducts<0>();
          Pin(dv[0]);
          Pin(dk[0]);
        }
      }
      if (!p.accumulateDq) {
        WaitProducts<0>();
        Pin(dv[0]);
        Pin(dk[0]);
        freeStage();
        continue;
      }
      FenceAsync();
      SyncThreads<Tile::kComputing>(1);
      const auto dqLeft = Descriptor::OfColumns<kKeyPage>(gradientsTile + dqQueries * kKeyPage);
      const auto dqRight = Descriptor::OfColumns<kKeyPage>(base + dqChannels * kKeyPage);
      float dq[8][4];
      Pin(dq);
      FenceProducts();
#pragma unroll
      for (int k = 0; k < kBlockK / 16; ++k) {
        const int rows = k * 16 * kPageRowBytes;
        Product16<true, true>(dq, dqLeft.At(rows), dqRight.At(rows), k != 0, T());
      }
      CommitProducts();
      WaitProducts<1>();
      Pin(dv[0]);
      Pin(dk[0]);
      freeStage();
      WaitProducts<0>();
      Pin(dq);
      addDq(dq, h, r0 + dqQueries * 64);
      gradientsTile = 2 * base + 2 * Tile::kGradientsAt + Tile::kGradientBytes - gradientsTile;
    }
    freeStage();
    if (any) ArriveAsWarp(barriers.keysFree());
    if (HasNotFinite(p, keys.keyBatchHead)) continue;
    const Factors last = FactorsOf<T, 1>(p, keys.keyBatchHead);  // read again, which saves registers in the loop
    float* dkHead = p.dk.data + keys.b * p.dk.batch + keys.keyHead * p.dk.head + keys.c0 * p.dk.row;
    float* dvHead = p.dv.data + keys.b * p.dv.batch + keys.keyHead * p.dv.head + keys.c0 * p.dv.row;
    StoreRows(dkHead, p.dk, dk, last.dk, warpRow, 0, p.sizes.Sk - keys.c0);
    StoreRows(dvHead, p.dv, dv, last.dv, warpRow, 0, p.sizes.Sk - keys.c0);
  }
  // Shared memory must stay until it is read.
  if (adds) WaitBulkRead();
}

template <class T, class Tile_, bool kDrops>
struct HopperKeys {
  using Tile = Tile_;
  using Barriers = BackwardBarriers<Tile>;

  static __device__ void Run(const HopperBackwardParams& p, uint8_t* shared, Barriers barriers) {
    RunRoles<Tile>([&] { BackwardLoader<Tile, BackwardCopies<Tile>>{p.call, {p, shared, barriers}}.LoadAll(); },
                   [&] { ComputeKeys<T, Tile, kDrops>(p, shared, barriers); });
  }
};

template <class T>
cudaError_t LaunchHopperBackward(const HopperBackwardHeads& heads, const BackwardParams& call, cudaStream_t stream) {
  const auto launch = heads.kD == 64   ? LaunchHopperBackwardTile<T, HopperKeys, HopperBackwardTile<64>>
                      : heads.kD == 96 ? LaunchHopperBackwardTile<T, HopperKeys, HopperBackwardTile<96>>
                                       : LaunchHopperBackwardTile<T, HopperKeys, HopperBackwardTile<128>>;
  return launch(call, stream);
}

}  // namespace flashmask::cuda
