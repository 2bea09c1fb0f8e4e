// The backward kernel on Hopper of 16-bit numbers with more than 128 channels. A cluster of two thread blocks takes one
// block of 128 keys after another; each keeps 64 of them. Two warpgroups compute, in each, the scores of half of the
// queries, transposed, keys by queries; then, when all weights and gradients of the thread block are in shared memory,
// dk and dv of its keys for half of the channels. A third computes dq for half of the channels and the keys of both
// thread blocks, which exchange gradients for it, so that these are added up before dq goes to memory.
#pragma once

#include "hopper_backward_dq.cuh"
#include "hopper_backward_launch.cuh"
#include "hopper_backward_wide_dq.cuh"

namespace flashmask::cuda {

// The channels of one of two warpgroups, out of kD: whole pages, and half of the last page if they are odd in number.
template <int kD>
struct OwnChannels {
  static constexpr int kWhole = kD / 128 * 64;
  static constexpr int kHalf = kD % 128 / 2;
  static __device__ int WholeAt(int group) { return group * kWhole; }
  static __device__ int HalfAt(int group) { return 2 * kWhole + group * kHalf; }
};

// Sums of 64 keys and the channels of a warpgroup.
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

  // Issues the addition of A B, summed over 64 queries: A is keys x queries, B queries x channels.
  template <class T>
  __device__ void Issue(uint32_t a, uint32_t b, int group) {
    constexpr int kPage = 64 * kPageRowBytes;
    const Descriptor left = Descriptor::OfRows(Agreed(a));
    const uint32_t right = Agreed(b);
    const auto wholeRight = Descriptor::OfColumns<kPage>(right + ChannelOffset(Own::WholeAt(group)));
    const auto halfRight = Descriptor::OfColumns<kPage>(right + ChannelOffset(Own::HalfAt(group)));
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

// A warpgroup that computes scores, dk and dv. Dropout is a parameter because it needs registers, which others do not
// have to spare.
template <class T, class Tile, bool kDrops>
struct WideScores : WideBlock<Tile> {
  using Base = WideBlock<Tile>;
  using Base::barriers, Base::base, Base::entry, Base::gradients, Base::keys, Base::shared;
  static constexpr int kN = 4;  // blocks of 8 in a warpgroup's half of the queries
  // Whether dO is there before the query block before is done with.
  static constexpr bool kLoadsAhead = Tile::kDOutStages == 2;

  const BackwardParams& p = Base::params.call;
  int group = OwnWarpgroup();
  int warpRow = threadIdx.x % kWarpgroup / kWarp * 16;
  Place<Tile::kStages> queries;
  Place<Tile::kDOutStages> dOut;
  uint32_t weightsParity = 1;
  Factors factors;
  OwnSums<Tile::kD> dk;
  OwnSums<Tile::kDv> dv;
  float scores[1][kN][4];
  float products[1][kN][4];  // of values and dO
  uint32_t kept;             // 4 bits for each block of 8 queries

  __device__ WideScores(const HopperBackwardParams& params, uint8_t* shared, PairBarriers<Tile> barriers)
      : Base{params, shared, barriers} {}

  __device__ void ReadEntry() {
    WaitParity(barriers.queriesFull(queries.stage), queries.parity);
    entry = reinterpret_cast<const QueryEntry*>(shared + Tile::kEntriesAt)[queries.stage];
  }

  __device__ uint32_t QueriesTile() const { return base + Tile::kQueriesAt + queries.stage * Tile::kQueryBytes; }
  __device__ uint32_t DOutTile() const { return base + Tile::kDOutAt + dOut.stage * Tile::kDOutBytes; }
  __device__ int OwnQuery() const { return entry.block * Tile::kBlockQ + group * 32; }

  // A term of two rows of block n.
  __device__ float2 RowTerm(int which, int n) const {
    const uint8_t* stats = shared + Tile::kStatsAt + (queries.stage * 3 + which) * Tile::kStatBytes;
    return *reinterpret_cast<const float2*>(stats + (group * 32 + ElementColumn(n, 0)) * 4);
  }

  __device__ void IssueScores() {
    IssueTransposed<T, Tile::kD, Tile::kOwnKeys, Tile::kBlockQ>(scores[0], Agreed(base),
                                                                Agreed(QueriesTile()) + group * 32 * kPageRowBytes);
  }

  __device__ void IssueProducts() {
    WaitParity(barriers.dOutFull(dOut.stage), dOut.parity);
    IssueTransposed<T, Tile::kDv, Tile::kOwnKeys, Tile::kBlockQ>(products[0], Agreed(base) + Tile::kValuesAt,
                                                                 Agreed(DOutTile()) + group * 32 * kPageRowBytes);
  }

  // Turns scores into weights, and writes these for dv.
  __device__ void Weigh() {
    Pin(scores[0]);
    if (entry.kind != kLive) {
      HideKeys(scores[0], HiddenKeys<kN>(p, entry.kind, keys.b, Base::Head(), keys.c0 + warpRow, OwnQuery()));
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
    WaitParity(barriers.weightsFree(), weightsParity);
    weightsParity ^= 1;
    if constexpr (kDrops) {
      StoreKept();
    } else {
      StoreTile<T, 1, Tile::kOwnKeys, 0>(base + Tile::kWeightsAt, scores, warpRow, group * 32);
    }
  }

  // Draws which weights are kept, and writes these.
  __device__ void StoreKept() {
    kept = 0;
    float keptWeights[1][kN][4];
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      kept |= KeptTransposed(p.dropout, keys.b * p.sizes.H + Base::Head(), OwnQuery() + ElementColumn(n, 0),
                             keys.c0 + warpRow + ElementRow(0, 0))
              << n * 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) keptWeights[0][n][i] = kept >> (n * 4 + i) & 1 ? scores[0][n][i] : 0.f;
    }
    StoreTile<T, 1, Tile::kOwnKeys, 0>(base + Tile::kWeightsAt, keptWeights, warpRow, group * 32);
  }

  // Turns products of values and dO into gradients of scores, and writes these, for dk and dq.
  __device__ void Grade() {
    Pin(products[0]);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 shift = RowTerm(2, n);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float product = kDrops && !(kept >> (n * 4 + i) & 1) ? 0.f : products[0][n][i];
        const float offset = -(i % 2 == 1 ? shift.y : shift.x) * factors.offset;
        products[0][n][i] = scores[0][n][i] * fmaf(product, factors.gradient, offset);
      }
    }
    WaitGradientsFree();
    StoreTile<T, 1, Tile::kOwnKeys, 0>(Base::GradientsTile(), products, warpRow, group * 32);
    FenceAsync();
    TellDq();
  }

  __device__ void WaitGradientsFree() const {
    WaitParity(barriers.gradientsFree(gradients.stage), gradients.parity ^ 1);
  }

  __device__ void TellDq() const {
    if (threadIdx.x == 0) Base::DqEntry() = entry;
    ArriveAsWarp(barriers.gradientsFull(gradients.stage));
  }

  // Tells of the end of a key block, or of all work.
  __device__ void TellDqEnd() {
    WaitGradientsFree();
    TellDq();
    gradients.Advance();
  }

  // All query blocks that see the keys. `entry` is the first.
  __device__ void WalkQueries() {
    Base::WaitKeys();
    IssueScores();
    IssueProducts();
    WaitProducts<1>();
    Weigh();
    WaitProducts<0>();
    Grade();
    for (bool more = true; more;) {
      const int stage = queries.stage;
      const uint32_t queriesTile = QueriesTile();
      WaitParity(barriers.gradientsFull(gradients.stage), gradients.parity);
      dv.template Issue<T>(base + Tile::kWeightsAt, DOutTile(), group);
      dk.template Issue<T>(Base::GradientsTile(), queriesTile, group);
      queries.Advance();
      ReadEntry();
      more = entry.block >= 0;
      IssueScores();  // without a query block these are never read, but a branch would let products wait
      WaitProducts<2>();
      dv.Pin();
      ArriveAsWarp(barriers.weightsFree());
      Base::ArriveIn(0, barriers.dOutFree(dOut.stage));
      dOut.Advance();
      WaitProducts<1>();
      dk.Pin();
      Base::ArriveIn(0, barriers.queriesFree(stage));
      gradients.Advance();
      if (more) {
        if (kLoadsAhead) IssueProducts();
        WaitProducts<kLoadsAhead ? 1 : 0>();
        Weigh();
        if (!kLoadsAhead) IssueProducts();
        WaitProducts<0>();
        Grade();
      } else {
        WaitProducts<0>();
      }
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
    for (ReadEntry(); entry.work >= 0; ReadEntry()) {
      Base::TakeKeys();
      factors = FactorsOf<T, 1>(p, keys.keyBatchHead);
      dk.Clear();
      dv.Clear();
      if (entry.block >= 0) {
        WalkQueries();
        Base::ArriveIn(0, barriers.keysFree());
        TellDqEnd();
      }
      Base::ArriveIn(0, barriers.queriesFree(queries.stage));
      queries.Advance();
      if (!HasNotFinite(p, keys.keyBatchHead)) StoreKeys();
    }
    TellDqEnd();
  }
};

template <class T, class Tile_, bool kDrops>
struct WideKeys {
  using Tile = Tile_;
  using Barriers = PairBarriers<Tile>;

  static __device__ void Run(const HopperBackwardParams& p, uint8_t* shared, Barriers barriers) {
    if (threadIdx.x < Tile::kScoring) {
      TakeRegisters<Tile::kScoreRegisters>();
      WideScores<T, Tile, kDrops>(p, shared, barriers).ComputeAll();
    } else if (threadIdx.x < Tile::kComputing) {
      GiveRegisters<Tile::kDqRegisters>();
      WideDq<T, Tile>(p, shared, barriers).ComputeAll();
    } else {
      GiveRegisters<Tile::kLoadRegisters>();
      const int helper = (static_cast<int>(threadIdx.x) - Tile::kComputing) / kWarp;
      if (helper == 0 && BlockInCluster() == 0) {
        BackwardLoader<Tile, PairCopies<Tile>>{p.call, {p, shared, barriers}}.LoadAll();
      } else if (helper >= 1 && helper <= kDqAdders) {
        DqAdder<Tile, Barriers, WideDqBoxes<Tile>>(p, shared, barriers, helper - 1).AddAll();
      }
    }
  }
};

template <class T>
cudaError_t LaunchHopperBackwardWide(const HopperBackwardHeads& heads, const BackwardParams& call,
                                     cudaStream_t stream) {
  const auto launch = heads.kD == 256    ? LaunchHopperBackwardTile<T, WideKeys, HopperPairTile<256, 256>>
                      : heads.kDv == 192 ? LaunchHopperBackwardTile<T, WideKeys, HopperPairTile<192, 192>>
                                         : LaunchHopperBackwardTile<T, WideKeys, HopperPairTile<192, 128>>;
  return launch(call, stream);
}

}  // namespace flashmask::cuda
