// The backward kernel on Hopper, of 16-bit numbers and of split floats with few channels. Thread blocks stay and take
// one block of 128 keys after another. One warp loads: it finds the live query blocks of all query heads of the key
// head and starts their copies. Two warpgroups compute, each with 64 keys, whose dk and dv stay in registers. Scores
// are computed transposed, keys by queries, so that weights and their gradients are left operands in registers. Both
// warpgroups also put the gradients into shared memory, from where they take turns to compute dq, which other warps add
// up in memory.
#pragma once

#include <type_traits>

#include "gradients.cuh"
#include "hopper_backward_dq.cuh"
#include "hopper_backward_launch.cuh"
#include "hopper_split.cuh"
#include "rows.cuh"

namespace flashmask::cuda {

// A query block has so many rows that its dq fits the registers of a warpgroup, 64 of a thread. A number has
// kNumberParts parts of 16 bits.
template <int kD_, int kNumberParts_ = 1>
struct HopperBackwardTile {
  static constexpr int kD = kD_;
  static constexpr int kNumberParts = kNumberParts_;
  static constexpr int kBlockQ = kD == 64 && kNumberParts == 1 ? 128 : 64;
  static constexpr int kBlockK = kHopperBackwardKeys;
  static constexpr int kStages = 2;
  static constexpr int kDqBuffers = 1;
  static constexpr int kCluster = 1;                            // thread blocks that share a key block
  static constexpr int kComputing = kBlockK / 64 * kWarpgroup;  // threads
  static constexpr int kThreads = kComputing + kWarpgroup;
  static constexpr bool kSpares = kD < 128 && kNumberParts == 1;  // registers, to the warps that load and add
  static constexpr int kComputeRegisters = kSpares ? 232 : 240;
  static constexpr int kLoadRegisters = kSpares ? 40 : 24;
  static_assert(CanExchange(kThreads, kComputing, kComputeRegisters, kLoadRegisters));
  static constexpr int kKeyBytes = kNumberParts * kTileBytes<kBlockK, kD>;
  static constexpr int kQueryBytes = kNumberParts * kTileBytes<kBlockQ, kD>;
  static constexpr int kGradientBytes = kNumberParts * kTileBytes<kBlockK, kBlockQ>;
  static constexpr int kDqBoxBytes = 64 * 128;
  static constexpr int kDqBytes = kBlockQ * kD * 4;
  static constexpr int kStatBytes = kBlockQ * 4;
  // In shared memory, in this order: keys, values, queries, dO, gradients, dq, row terms, entries, those for
  // the warps that add dq, barriers.
  static constexpr int kValuesAt = kKeyBytes;
  static constexpr int kQueriesAt = 2 * kKeyBytes;
  static constexpr int kDOutAt = kQueriesAt + kStages * kQueryBytes;
  static constexpr int kGradientsAt = kDOutAt + kStages * kQueryBytes;
  static constexpr int kDqAt = kGradientsAt + 2 * kGradientBytes;
  static constexpr int kStatsAt = kDqAt + kDqBytes;
  static constexpr int kEntriesAt = kStatsAt + kStages * 3 * kStatBytes;
  static constexpr int kToldAt = kEntriesAt + kStages * 16;
  static constexpr int kBarriersAt = kToldAt + kToldTiles * 16;
  static constexpr int kSharedBytes = kBarriersAt + (5 + 3 * kStages + kToldTiles) * 8;
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
  __device__ uint32_t dqFree(int) const { return base + 16 + Tile::kStages * 24; }
  // For the warps that add dq, one for each warpgroup.
  __device__ uint32_t dqFull(int group, int) const { return base + 24 + Tile::kStages * 24 + group * 8; }
  __device__ uint32_t told(int place) const { return base + 40 + Tile::kStages * 24 + place * 8; }

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
    InitBarrier(dqFree(0), 1);
    for (int group = 0; group < kDqAdders; ++group) InitBarrier(dqFull(group, 0), 1);
    for (int tile = 0; tile < kToldTiles; ++tile) InitBarrier(told(tile), 1);
    FenceBarrierInit();
  }
};

// The boxes of a tile of dq: 64 queries x 32 channels each.
template <class Tile>
struct DqBoxes {
  static constexpr int kPlaces = 1;
  static constexpr int kBoxes = Tile::kD / 32;

  static __device__ int At(int part, int box) { return (part * kBoxes + box) * Tile::kDqBoxBytes; }

  static __device__ void Add(const CUtensorMap& dq, uint32_t shared, int, int r0, int h, int b) {
    for (int part = 0; part < Tile::kBlockQ / 64; ++part) {
      for (int box = 0; box < kBoxes; ++box) AddBox(&dq, shared + At(part, box), box * 32, r0 + part * 64, h, b);
    }
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
  uint32_t tiles = 0;

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

  // Tells the warp that adds dq of the next tile. The first lane calls it.
  __device__ void TellAdder(const QueryEntry& entry) {
    const uint32_t told = tiles++ % kToldTiles;
    entries[Tile::kStages + told] = entry;
    Arrive(barriers.told(told));
  }

  __device__ void TellEnd(const QueryEntry& end) {
    Tell(end);
    if (!IsFirstLane()) return;
    for (int adder = 0; adder < kDqAdders; ++adder) TellAdder(end);
  }

  __device__ void LoadKeys(const KeyBlock& keys) {
    WaitAsWarp(barriers.keysFree(), keysParity);
    keysParity ^= 1;
    if (!IsFirstLane()) return;
    ArriveExpecting(barriers.keysFull(), 2 * Tile::kKeyBytes);
    CopyTiles<Tile::kNumberParts, Tile::kD, Tile::kBlockK>(shared, &p.k, barriers.keysFull(), keys.c0, keys.keyHead,
                                                           keys.b, p.call.sizes.B);
    CopyTiles<Tile::kNumberParts, Tile::kD, Tile::kBlockK>(shared + Tile::kValuesAt, &p.v, barriers.keysFull(), keys.c0,
                                                           keys.keyHead, keys.b, p.call.sizes.B);
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
      TellAdder(entry);
      ArriveExpecting(full, Tile::kQueryBytes + 3 * Tile::kStatBytes);
      CopyTiles<Tile::kNumberParts, Tile::kD, Tile::kBlockQ>(
          shared + Tile::kQueriesAt + place.stage * Tile::kQueryBytes, &p.q, full, r0, h, keys.b, call.sizes.B);
      CopyRowTerms<Tile::kStatBytes>(stats, call, row, full);
      ArriveExpecting(barriers.dOutFull(place.stage), Tile::kQueryBytes);
      CopyTiles<Tile::kNumberParts, Tile::kD, Tile::kBlockQ>(shared + Tile::kDOutAt + place.stage * Tile::kQueryBytes,
                                                             &p.dOut, barriers.dOutFull(place.stage), r0, h, keys.b,
                                                             call.sizes.B);
    }
    place.Advance();
  }
};

// The work of a warpgroup that computes. Dropout is a parameter because it needs registers, which others do not have to
// spare.
template <class T, class Tile, bool kDrops>
class KeyWarpgroup {
 public:
  __device__ KeyWarpgroup(const HopperBackwardParams& params, uint8_t* shared, BackwardBarriers<Tile> barriers)
      : p_(params.call),
        shared_(shared),
        base_(SharedAddress(shared)),
        barriers_(barriers),
        group_(OwnWarpgroup()),
        warpRow_(threadIdx.x / kWarp * 16),
        gradientsTile_(base_ + Tile::kGradientsAt) {}

  __device__ void ComputeAll() {
    for (;;) {
      const QueryEntry entry = NextEntry();
      if (entry.work < 0) break;
      keys_ = TakenKeys<Tile>(entry.work, p_);
      Clear(dk_);
      Clear(dv_);
      if (entry.block >= 0) {
        ComputeKeyBlock(entry);
        ArriveAsWarp(barriers_.keysFree());
      }
      FreeStage();
      if (!HasNotFinite(p_, keys_.keyBatchHead)) StoreKeys();
      // Only where a warp is together does ptxas see that it agrees on the stage (OwnWarpgroup says what for).
      __syncwarp();
      place_.Advance();
    }
  }

 private:
  static constexpr int kD = Tile::kD;
  static constexpr int kBlockQ = Tile::kBlockQ;
  static constexpr int kBlockK = Tile::kBlockK;
  static constexpr int kN = 8;  // blocks of 8 in a part of 64 queries
  static constexpr int kParts = kBlockQ / 64;
  static constexpr int kPartBytes = 64 * kPageRowBytes;
  static constexpr int kKeyPage = kBlockK * kPageRowBytes;
  static constexpr int kLowGradients =
      Tile::kGradientBytes / Tile::kNumberParts;  // from the high parts to the low ones
  using Left = uint32_t[Tile::kNumberParts][kN / 2][4];

  // Whether the factors of gradients of scores are 1: bfloat16 has the range of floats.
  static constexpr bool kUnscaled = std::is_same<T, __nv_bfloat16>::value && !kDrops;

  __device__ QueryEntry NextEntry() {
    WaitParity(barriers_.queriesFull(place_.stage), place_.parity);
    return reinterpret_cast<const QueryEntry*>(shared_ + Tile::kEntriesAt)[place_.stage];
  }

  __device__ void FreeStage() { ArriveAsWarp(barriers_.free(place_.stage)); }

  __device__ uint32_t ownKeys() const { return base_ + group_ * kPartBytes; }
  __device__ uint32_t Queries(int part) const {
    return base_ + Tile::kQueriesAt + place_.stage * Tile::kQueryBytes + part * kPartBytes;
  }
  __device__ uint32_t DOut(int part) const {
    return base_ + Tile::kDOutAt + place_.stage * Tile::kQueryBytes + part * kPartBytes;
  }

  // Row term number `which` of the queries of block n.
  __device__ float2 RowTerm(int part, int which, int n) const {
    const uint8_t* stats = shared_ + Tile::kStatsAt + (place_.stage * 3 + which) * Tile::kStatBytes;
    return reinterpret_cast<const float2*>(stats)[(part * 64 + ElementColumn(n, 0)) / 2];
  }

  __device__ void ComputeKeyBlock(QueryEntry entry) {
    const Factors factors = FactorsOf<T, Tile::kNumberParts>(p_, keys_.keyBatchHead);
    WaitParity(barriers_.keysFull(), keysParity_);
    keysParity_ ^= 1;
    if constexpr (kKeepsKeys) LoadKeyParts(keyParts_, base_);
    if constexpr (kKeepsValues) LoadKeyParts(valueParts_, base_ + Tile::kValuesAt);
    for (; entry.block >= 0; entry = NextEntry()) {
      ComputeQueries(entry, factors);
      TakeTurn(factors.dq);
      place_.Advance();
    }
    if (hasDq_) TellDq();
  }

  // With few channels the own keys and values stay in registers, or only the values, which spares shared memory half of
  // what scores (dP) read.
  static constexpr bool kKeepsKeys = kD == 64 && Tile::kNumberParts == 1;
  static constexpr bool kKeepsValues = kD <= 96 && Tile::kNumberParts == 1;
  template <bool kKeeps>
  using Parts = uint32_t[kKeeps ? kD / 16 : 1][4];

  template <int kSteps>
  __device__ void LoadKeyParts(uint32_t (&parts)[kSteps][4], uint32_t tile) const {
    const uint32_t address = LaneAddress<kBlockK>(tile, warpRow_ / 16, 0, true);
#pragma unroll
    for (int k = 0; k < kSteps; ++k) LoadMatrix<false>(parts[k], BlockAddress<kBlockK>(address, 0, k));
  }

  // Issues the products of the own keys (or values), in shared memory or in registers, and queries (dO).
  template <bool kKeeps>
  __device__ static void IssueProducts(float (&acc)[kN][4], uint32_t own, const Parts<kKeeps>& parts, uint32_t other) {
    if constexpr (kKeeps) {
      IssueTransposed<T, kBlockQ>(acc, parts, other);
    } else {
      IssueScoresOf<T, Tile::kNumberParts, kD, kBlockK, kBlockQ, true>(acc, own, other);
    }
  }

  __device__ void IssueScores(int part) { IssueProducts<kKeepsKeys>(scores_, ownKeys(), keyParts_, Queries(part)); }
  __device__ void IssueGradients(int part) {
    IssueProducts<kKeepsValues>(gradients_, ownKeys() + Tile::kValuesAt, valueParts_, DOut(part));
  }

  // Adds what a query block gives to dk and dv, and puts its gradients into shared memory for dq. The second part's
  // scores and products of dO and v are issued before the first part's dk, which is computed beside its exponentials.
  __device__ void ComputeQueries(const QueryEntry& entry, const Factors& factors) {
    IssueScores(0);
    WaitParity(barriers_.dOutFull(place_.stage), place_.parity);
    IssueGradients(0);
    if (hasDq_) TellDq();
#pragma unroll
    for (int part = 0; part < kParts; ++part) ComputePart(entry, part, factors);
  }

  __device__ void ComputePart(const QueryEntry& entry, int part, const Factors& factors) {
    const int h = keys_.keyHead * keys_.group + entry.head;
    const int r0 = entry.block * kBlockQ + part * 64;
    // A vote, so that ptxas knows that a warp does not part here.
    const bool partial = __any_sync(~0u, entry.kind != kLive);
    const uint32_t hidden = partial ? HiddenKeys<kN>(p_, entry.kind, keys_.b, h, keys_.c0 + warpRow_, r0) : 0;
    if (part == 0) {
      WaitProducts<1>();
    } else {
      WaitProducts<2>();
    }
    Pin(scores_);
    if (partial) HideKeys(scores_, hidden);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 reference = RowTerm(part, 0, n);
      const float2 weight = RowTerm(part, 1, n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool second = i % 2 == 1;
        scores_[n][i] = Exp2(fmaf(scores_[n][i], factors.scale2, second ? -reference.y : -reference.x)) *
                        (second ? weight.y : weight.x);
      }
    }
    const uint32_t kept = kDrops ? Kept(h, r0) : ~0u;
    Left left;
    PackWeights(left, kept);
    IssueSum<T, kBlockQ, false>(dv_[0], dvTile_, left, DOut(part));
    if (part == 0) {
      WaitProducts<1>();
    } else {
      WaitProducts<2>();
    }
    Pin(gradients_);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 shift = RowTerm(part, 2, n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float product = IsKept(kept, n, i) ? gradients_[n][i] : 0.f;
        const float term = i % 2 == 1 ? shift.y : shift.x;
        gradients_[n][i] =
            scores_[n][i] * (kUnscaled ? product - term : fmaf(product, factors.gradient, -term * factors.offset));
      }
    }
    Left leftGradients;
    PackParts<T>(leftGradients, gradients_);
    if (part < kParts - 1) {
      IssueScores(part + 1);
      IssueGradients(part + 1);
    }
    StoreGradients(leftGradients, part);
    IssueSum<T, kBlockQ, false>(dk_[0], dkTile_, leftGradients, Queries(part));
  }

  // Which pairs of a part dropout keeps: 4 bits for each block of 8 queries.
  __device__ uint32_t Kept(int h, int r0) const {
    uint32_t kept = 0;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      kept |= KeptTransposed(p_.dropout, keys_.b * p_.sizes.H + h, r0 + ElementColumn(n, 0),
                             keys_.c0 + warpRow_ + ElementRow(0, 0))
              << n * 4;
    }
    return kept;
  }

  __device__ static bool IsKept(uint32_t kept, int n, int i) { return !kDrops || (kept >> (n * 4 + i) & 1) != 0; }

  __device__ void PackWeights(Left& left, uint32_t kept) const {
    float weights[kN][4];
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[n][i] = IsKept(kept, n, i) ? scores_[n][i] : 0.f;
    }
    PackParts<T>(left, weights);
  }

  __device__ void StoreGradients(const Left& packed, int part) const {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int lower = 0; lower < 2; ++lower) {
        const int row = warpRow_ + ElementRow(0, 2 * lower);
        const uint32_t at = gradientsTile_ + ChunkOffset<kBlockK>(row, part * 8 + n) + threadIdx.x % 4 * 4;
#pragma unroll
        for (int i = 0; i < Tile::kNumberParts; ++i) {
          StoreShared(at + i * kLowGradients, packed[i][n / 2][n % 2 * 2 + lower]);
        }
      }
    }
  }

  // The warpgroups take turns to compute dq, from the gradients of both. The other one goes on meanwhile, so that they
  // are at different points of their work, and one has products while the other has not.
  __device__ void TakeTurn(float factor) {
    const bool own = turn_ == group_;
    FenceAsync();
    // A vote, so that ptxas knows that a warp does not part here.
    if (__any_sync(~0u, own)) {
      SyncThreads<Tile::kComputing>(1 + turn_);
      FinishKeys();
      ComputeDq(factor);
      hasDq_ = true;
    } else {
      ArriveThreads<Tile::kComputing>(1 + turn_);
      FinishKeys();
    }
    turn_ ^= 1;
    gradientsTile_ = 2 * base_ + 2 * Tile::kGradientsAt + Tile::kGradientBytes - gradientsTile_;
  }

  // Waits for dv and dk, and frees what they are computed from.
  __device__ void FinishKeys() {
    WaitProducts<0>();
    FinishSum<Tile::kNumberParts>(dv_[0], dvTile_);
    FinishSum<Tile::kNumberParts>(dk_[0], dkTile_);
    FreeStage();
  }

  __device__ void IssueDq(float (&dq)[kParts][kD / 8][4]) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) Pin(dq[part]);
    FenceProducts();
    const auto right = Descriptor::OfColumns<kKeyPage>(base_);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const auto left = Descriptor::OfColumns<kKeyPage>(gradientsTile_ + part * kKeyPage);
#pragma unroll
      for (int k = 0; k < kBlockK / 16; ++k) {
        const int rows = k * 16 * kPageRowBytes;
        Product16<true, true>(dq[part], left.At(rows), right.At(rows), k != 0, T());
      }
    }
    CommitProducts();
  }

  __device__ void ComputeDq(float factor) {
    float dq[kParts][kD / 8][4];
    if constexpr (Tile::kNumberParts == 1) {
      IssueDq(dq);
    } else {
      IssueSplitFromColumns<T, kBlockK, kBlockQ>(dq[0], gradientsTile_, base_);
    }
    WaitProducts<0>();
    WaitParity(barriers_.dqFree(0), turn_ ^ 1);  // the tiles of dq are as many as the turns
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      Pin(dq[part]);
      StoreDq(dq[part], part, factor);
    }
  }

  // Writes dq to shared memory. A warp that adds it is told later, when the writes have arrived.
  __device__ void StoreDq(const float (&dq)[kD / 8][4], int part, float factor) {
    // Odd rows store blocks n and n ^ 2 the other way around. Otherwise the swizzle puts rows 2 r and 2 r + 1 into the
    // same banks.
    const bool odd = threadIdx.x / 4 % 2 == 1;
#pragma unroll
    for (int n = 0; n < kD / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warpRow_ % 64 + ElementRow(0, 2 * half);
        const int channel = ElementColumn(n, 0);
        const uint32_t at = base_ + Tile::kDqAt + DqBoxes<Tile>::At(part, channel / 32) + row * kPageRowBytes +
                            (((channel % 32 / 4) ^ (row & 7) ^ (odd ? 4 : 0)) << 4) + channel % 4 * 4;
        const float* pair = &dq[n][2 * half];
        const float* other = &dq[n ^ 2][2 * half];
        StoreSharedPair(at, (odd ? other[0] : pair[0]) * factor, (odd ? other[1] : pair[1]) * factor);
      }
    }
  }

  // Tells of the dq that StoreDq() wrote. Afterwards no warp reads the gradients any more.
  __device__ void TellDq() {
    FenceAsync();
    SyncThreads<kWarpgroup>(3 + group_);
    if (threadIdx.x % kWarpgroup == 0) Arrive(barriers_.dqFull(group_, 0));
    hasDq_ = false;
  }

  __device__ void StoreKeys() const {
    const Factors factors =
        FactorsOf<T, Tile::kNumberParts>(p_, keys_.keyBatchHead);  // read again, which saves registers in the loop
    float* dk = p_.dk.data + keys_.b * p_.dk.batch + keys_.keyHead * p_.dk.head + keys_.c0 * p_.dk.row;
    float* dv = p_.dv.data + keys_.b * p_.dv.batch + keys_.keyHead * p_.dv.head + keys_.c0 * p_.dv.row;
    const int keys = p_.sizes.Sk - keys_.c0;
    StoreAllChannels(dk, p_.dk, dk_, factors.dk, warpRow_, keys);
    StoreAllChannels(dv, p_.dv, dv_, factors.dv, warpRow_, keys);
  }

  const BackwardParams& p_;
  uint8_t* shared_;
  uint32_t base_;
  BackwardBarriers<Tile> barriers_;
  int group_;
  int warpRow_;
  Place<Tile::kStages> place_;
  uint32_t keysParity_ = 0;
  uint32_t gradientsTile_;
  KeyBlock keys_;
  bool hasDq_ = false;      // dq lies in shared memory, which nobody knows yet
  int turn_ = 0;            // the warpgroup that computes the next dq
  float scores_[kN][4];     // then weights
  float gradients_[kN][4];  // products of dO and v, then gradients of scores
  Parts<kKeepsKeys> keyParts_;
  Parts<kKeepsValues> valueParts_;
  float dk_[1][kD / 8][4];
  float dv_[1][kD / 8][4];
  SumTile<Tile::kNumberParts, kD / 8> dkTile_, dvTile_;
};

template <class T, class Tile_, bool kDrops>
struct HopperKeys {
  using Tile = Tile_;
  using Barriers = BackwardBarriers<Tile>;

  static __device__ void Run(const HopperBackwardParams& p, uint8_t* shared, Barriers barriers) {
    const int helper = (static_cast<int>(threadIdx.x) - Tile::kComputing) / kWarp;
    RunRoles<Tile, 1 + kDqAdders>(
        [&] {
          if (helper == 0) {
            BackwardLoader<Tile, BackwardCopies<Tile>>{p.call, {p, shared, barriers}}.LoadAll();
          } else {
            DqAdder<Tile, Barriers, DqBoxes<Tile>>(p, shared, barriers, helper - 1).AddAll();
          }
        },
        [&] { KeyWarpgroup<T, Tile, kDrops>(p, shared, barriers).ComputeAll(); });
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
