// The forward kernel of 16-bit numbers on Hopper. Thread blocks stay and take one row block after another. One warp
// loads: it finds the live key blocks and starts their copies. Each of the warpgroups that compute keeps 64 queries; it
// issues the scores of the next key block before the output of this one, so that exponentials run beside products.
#pragma once

#include "forward.cuh"
#include "hopper.cuh"
#include "hopper_forward.h"
#include "hopper_launch.cuh"

namespace flashmask::cuda {

struct HopperForwardParams {
  CUtensorMap q, k, v;
  ForwardParams call;
};

template <int kD_, int kStages_>
struct HopperForwardTile {
  static constexpr int kD = kD_;
  static constexpr int kStages = kStages_;
  static constexpr int kBlockQ = kHopperBlockQ;
  static constexpr int kBlockK = kHopperBlockK;
  static constexpr int kComputing = kBlockQ / 64 * kWarpgroup;  // threads
  static constexpr int kThreads = kComputing + kWarpgroup;
  // Registers of a thread that computes and of one that loads.
  static constexpr int kComputeRegisters = 232;
  static constexpr int kLoadRegisters = 40;
  static_assert(CanExchange(kThreads, kComputing, kComputeRegisters, kLoadRegisters));
  static constexpr int kQueryBytes = kTileBytes<kBlockQ, kD>;
  static constexpr int kKeyBytes = kTileBytes<kBlockK, kD>;
  static constexpr int kSpanBytes = kBlockK * 16;
  // In shared memory, in this order: queries, keys, values, spans, entries, barriers.
  static constexpr int kKeysAt = kQueryBytes;
  static constexpr int kValuesAt = kKeysAt + kStages * kKeyBytes;
  static constexpr int kSpansAt = kValuesAt + kStages * kKeyBytes;
  static constexpr int kEntriesAt = kSpansAt + kStages * kSpanBytes;
  static constexpr int kBarriersAt = kEntriesAt + kStages * 16;
  static constexpr int kSharedBytes = kBarriersAt + (2 + 4 * kStages) * 8;
};

// The row block that is taken as number `work`. Heads take turns, so that those with the most work come first.
template <class Tile>
__device__ inline RowBlock TakenRows(int work, const Sizes& s, const Mask& mask) {
  return RowBlockAt<Tile::kBlockQ>(work, s, mask, mask.causal || mask.spans != nullptr);
}

// What the loading warp tells of a stage: a key block of the row block `work`, or the end of it (block -1), or the end
// of all work (work -1).
struct Entry {
  int work, block;
  TileKind kind;
};

// The barriers of a thread block.
template <class Tile>
struct Barriers {
  uint32_t base;
  __device__ uint32_t queriesFull() const { return base; }
  __device__ uint32_t queriesFree() const { return base + 8; }
  __device__ uint32_t keysFull(int stage) const { return base + 16 + stage * 32; }
  __device__ uint32_t keysFree(int stage) const { return base + 24 + stage * 32; }
  __device__ uint32_t valuesFull(int stage) const { return base + 32 + stage * 32; }
  __device__ uint32_t valuesFree(int stage) const { return base + 40 + stage * 32; }

  __device__ void Init() const {
    // One warp loads; each warp that computes frees for itself.
    constexpr int kWarps = Tile::kComputing / kWarp;
    InitBarrier(queriesFull(), 1);
    InitBarrier(queriesFree(), kWarps);
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      InitBarrier(keysFull(stage), 1);
      InitBarrier(keysFree(stage), kWarps);
      InitBarrier(valuesFull(stage), 1);
      InitBarrier(valuesFree(stage), kWarps);
    }
    FenceBarrierInit();
  }
};

// The work of the loading warp.
template <class Tile>
struct Loader {
  const HopperForwardParams& p;
  uint32_t shared;
  Entry* entries;
  Barriers<Tile> barriers;
  Place<Tile::kStages> keys, values;
  uint32_t queriesParity = 1;

  __device__ Loader(const HopperForwardParams& p, uint8_t* shared, Barriers<Tile> barriers)
      : p(p),
        shared(SharedAddress(shared)),
        entries(reinterpret_cast<Entry*>(shared + Tile::kEntriesAt)),
        barriers(barriers) {}

  // Tells what has no tile.
  __device__ void Tell(const Entry& entry) {
    WaitAsWarp(barriers.keysFree(keys.stage), keys.parity ^ 1);
    if (IsFirstLane()) {
      entries[keys.stage] = entry;
      Arrive(barriers.keysFull(keys.stage));
    }
    keys.Advance();
  }

  __device__ void LoadQueries(const RowBlock& at) {
    WaitAsWarp(barriers.queriesFree(), queriesParity);
    queriesParity ^= 1;
    if (!IsFirstLane()) return;
    ArriveExpecting(barriers.queriesFull(), Tile::kQueryBytes);
    CopyPages<Tile::kD, Tile::kBlockQ>(shared, &p.q, barriers.queriesFull(), at.r0, at.h, at.b);
  }

  __device__ void LoadKeys(const RowBlock& at, const Entry& entry) {
    WaitAsWarp(barriers.keysFree(keys.stage), keys.parity ^ 1);
    if (IsFirstLane()) {
      const Mask& mask = p.call.mask;
      const int Sk = p.call.sizes.Sk;
      const int c0 = entry.block * Tile::kBlockK;
      const uint32_t full = barriers.keysFull(keys.stage);
      const bool spans = (entry.kind & (kHidesLower | kHidesUpper)) != 0;
      const uint32_t spanBytes = spans ? min(Tile::kBlockK, Sk - c0) * sizeof(int4) : 0;
      entries[keys.stage] = entry;
      ArriveExpecting(full, Tile::kKeyBytes + spanBytes);
      CopyPages<Tile::kD, Tile::kBlockK>(shared + Tile::kKeysAt + keys.stage * Tile::kKeyBytes, &p.k, full, c0,
                                         at.keyHead, at.b);
      if (spans) {
        CopyBulk(shared + Tile::kSpansAt + keys.stage * Tile::kSpanBytes, mask.spans + at.maskHead * Sk + c0, spanBytes,
                 full);
      }
    }
    keys.Advance();
  }

  __device__ void LoadValues(const RowBlock& at, int block) {
    WaitAsWarp(barriers.valuesFree(values.stage), values.parity ^ 1);
    if (IsFirstLane()) {
      const uint32_t full = barriers.valuesFull(values.stage);
      ArriveExpecting(full, Tile::kKeyBytes);
      CopyPages<Tile::kD, Tile::kBlockK>(shared + Tile::kValuesAt + values.stage * Tile::kKeyBytes, &p.v, full,
                                         block * Tile::kBlockK, at.keyHead, at.b);
    }
    values.Advance();
  }

  __device__ void LoadRows(int work) {
    const ForwardParams& call = p.call;
    const RowBlock at = TakenRows<Tile>(work, call.sizes, call.mask);
    LiveBlocks live = LiveKeyBlocks<Tile::kBlockK>(at, call.sizes, call.mask, call.ranges);
    const auto classify = [&](int block) { return ClassifyKeyBlock<Tile::kBlockK>(at, call.sizes, call.mask, block); };
    bool partial;
    int block = live.Next(&partial, classify);
    if (block >= 0) LoadQueries(at);
    for (; block >= 0; block = live.Next(&partial, classify)) {
      LoadKeys(at, {work, block, live.Kind(block)});
      LoadValues(at, block);
    }
    Tell({work, -1, kEmpty});
  }

  __device__ void LoadAll() {
    const Sizes& s = p.call.sizes;
    const int works = s.B * s.H * ((s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ);
    for (int work = blockIdx.x; work < works;) {
      LoadRows(work);
      if (IsFirstLane()) work = gridDim.x + atomicAdd(p.call.counter, 1);
      work = __shfl_sync(~0u, work, 0);
    }
    Tell({-1, -1, kEmpty});
  }
};

// The work of a warpgroup that computes.
template <class T, class Tile>
__device__ inline void ComputeRows(const ForwardParams& p, uint8_t* shared, Barriers<Tile> barriers) {
  constexpr int kN = Tile::kBlockK / 8;
  constexpr int kReference = kReferenceShift<T, 1>;
  const uint32_t base = SharedAddress(shared);
  const uint32_t queries = base + threadIdx.x / kWarpgroup * 64 * kPageRowBytes;
  const int warpRow = threadIdx.x / kWarp * 16;
  const int Sq = p.sizes.Sq;
  const int Sk = p.sizes.Sk;
  Place<Tile::kStages> keys, values;
  uint32_t queriesParity = 0;

  const auto nextEntry = [&]() {
    WaitParity(barriers.keysFull(keys.stage), keys.parity);
    return reinterpret_cast<const Entry*>(shared + Tile::kEntriesAt)[keys.stage];
  };
  const auto freeKeys = [&]() {
    ArriveAsWarp(barriers.keysFree(keys.stage));
    keys.Advance();
  };
  float scores[1][kN][4];
  float out[1][Tile::kD / 8][4];
  uint32_t weights[kN / 2][4];
  const auto issueScores = [&]() {
    IssueTransposed<T, Tile::kD, Tile::kBlockQ, Tile::kBlockK>(scores[0], queries,
                                                               base + Tile::kKeysAt + keys.stage * Tile::kKeyBytes);
  };

  for (;;) {
    Entry entry = nextEntry();
    if (entry.work < 0) return;
    const RowBlock at = TakenRows<Tile>(entry.work, p.sizes, p.mask);
    const int scoreExponent = ExponentOf<1>(p.qFacts, at.keyBatchHead) + ExponentOf<1>(p.kFacts, at.keyBatchHead);
    const float scale2 = ScaleOfScores(p.scoreScale, scoreExponent);
    const bool notFinite = HasNotFinite(p.vFacts, at.keyBatchHead);
    Clear(out);
    RowStats<1> stats;
    stats.reference[0][0] = stats.reference[0][1] = -kInfinity;
    stats.sum[0][0] = stats.sum[0][1] = 0;
    float factors[1][2];
    // The scores of `entry` become weights. Gives whether `out` must be multiplied by the factors.
    const auto weigh = [&]() {
      if (entry.kind != kLive) {
        const int4* spans = reinterpret_cast<const int4*>(shared + Tile::kSpansAt + keys.stage * Tile::kSpanBytes);
        HideMasked(scores, entry.kind, spans, p.mask.causal, at.r0 + warpRow, 0, entry.block * Tile::kBlockK, Sq, Sk);
      }
      // Copies of later key blocks overwrite the spans too.
      freeKeys();
      const bool raised = RaiseReferences<kReference>(stats, factors, scores, scale2);
      ScoresToWeights<0>(stats, scores, scale2);
      if (p.dropout.threshold != 0) {
        DropWeights(scores, p.dropout, at.batchHead, at.r0 + warpRow, entry.block * Tile::kBlockK);
      }
      return raised;
    };

    // Waits for the values of a key block, and issues their part of the output.
    const auto issueOutput = [&](bool partial) {
      WaitParity(barriers.valuesFull(values.stage), values.parity);
      const int valuesAt = Tile::kValuesAt + values.stage * Tile::kKeyBytes;
      if (notFinite && partial) {
        SyncThreads<Tile::kComputing>(1);
        ClearNotFinite<T, Tile::kKeyBytes, Tile::kComputing>(shared + valuesAt);
        FenceAsync();
        SyncThreads<Tile::kComputing>(1);
      }
      IssueFromRegisters<T, Tile::kBlockK>(out[0], weights, base + valuesAt);
    };
    const auto finishOutput = [&]() {
      WaitProducts<0>();
      Pin(out[0]);
      ArriveAsWarp(barriers.valuesFree(values.stage));
      values.Advance();
    };

    if (entry.block >= 0) {
      WaitParity(barriers.queriesFull(), queriesParity);
      queriesParity ^= 1;
      issueScores();
      WaitProducts<0>();
      Pin(scores[0]);
      weigh();
      PackLeft<T>(weights, scores[0]);
      bool partial = entry.kind != kLive;
      for (;;) {
        entry = nextEntry();
        if (entry.block < 0) break;
        issueScores();
        issueOutput(partial);
        WaitProducts<1>();
        Pin(scores[0]);
        partial = entry.kind != kLive;
        const bool raised = weigh();
        finishOutput();
        if (raised) Rescale(out, factors);
        PackLeft<T>(weights, scores[0]);
      }
      ArriveAsWarp(barriers.queriesFree());
      issueOutput(partial);
      finishOutput();
    }
    freeKeys();
    StoreOutput<T, 1>(p, at, warpRow, out, stats);
    if (notFinite) {
      SyncThreads<Tile::kComputing>(1);
      AddNotFiniteValues<T, Tile::kBlockK, Tile::kComputing>(p, at);
    }
  }
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    HopperForwardKernel(const __grid_constant__ HopperForwardParams p) {
  if constexpr (kHopper) {
    extern __shared__ __align__(1024) uint8_t shared[];
    const Barriers<Tile> barriers = {SharedAddress(shared + Tile::kBarriersAt)};
    if (threadIdx.x == 0) barriers.Init();
    __syncthreads();
    RunRoles<Tile>([&] { Loader<Tile>(p, shared, barriers).LoadAll(); },
                   [&] { ComputeRows<T, Tile>(p.call, shared, barriers); });
  } else {
    __trap();
  }
}

template <class T, class Tile>
cudaError_t LaunchHopperForwardTile(const ForwardParams& call, cudaStream_t stream) {
  const Sizes& s = call.sizes;
  HopperForwardParams params;
  params.call = call;
  cudaError_t error = Describe<T>(&params.q, call.q, s.Sq, s.H, s.B, Tile::kBlockQ);
  if (error == cudaSuccess) error = Describe<T>(&params.k, call.k, s.Sk, s.Hkv, s.B, Tile::kBlockK);
  if (error == cudaSuccess) error = Describe<T>(&params.v, call.v, s.Sk, s.Hkv, s.B, Tile::kBlockK);
  if (error != cudaSuccess) return error;
  const int64_t works = int64_t{s.B} * s.H * ((s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ);
  return LaunchStaying<Tile>(HopperForwardKernel<T, Tile>, params, works, stream);
}

template <class T>
cudaError_t LaunchHopperForward(int kD, const ForwardParams& call, cudaStream_t stream) {
  return kD == 64 ? LaunchHopperForwardTile<T, HopperForwardTile<64, 4>>(call, stream)
                  : LaunchHopperForwardTile<T, HopperForwardTile<128, 2>>(call, stream);
}

}  // namespace flashmask::cuda
