// The backward kernel on Hopper of 16-bit numbers with more than 128 channels. A cluster of two thread blocks takes one
// block of 128 keys after another; each keeps 64 of them. Two warpgroups compute in each: the scores of half of the
// queries, transposed, keys by queries; then, when all weights and gradients of the thread block are in shared memory,
// dk and dv of its keys for half of the channels. The thread blocks exchange gradients too, and each computes dq for
// half of the channels, so that all keys are added up before dq goes to memory. Products of one query block run beside
// the exponentials of the next.
#pragma once

#include "gradients.cuh"
#include "hopper_backward_launch.cuh"
#include "hopper_backward_pair.cuh"
#include "rows.cuh"

namespace flashmask::cuda {

// Where a channel begins in a tile of 64 rows.
__device__ inline uint32_t ChannelOffset(int channel) { return channel / 64 * (64 * kPageRowBytes) + channel % 64 * 2; }

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
    const Descriptor left = Descriptor::OfRows(a);
    const auto wholeRight = Descriptor::OfColumns<kPage>(b + ChannelOffset(Own::WholeAt(group)));
    const auto halfRight = Descriptor::OfColumns<kPage>(b + ChannelOffset(Own::HalfAt(group)));
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
  using Barriers = PairBarriers<Tile>;
  static constexpr int kN = 4;  // blocks of 8 in a warpgroup's half of the queries

  const HopperBackwardParams& params;
  const BackwardParams& p;
  uint8_t* shared;
  uint32_t base;
  Barriers barriers;
  int rank;
  int group;
  int warpRow;
  bool adds;  // whether this thread starts the additions of dq
  Place<Tile::kStages> queries;
  Place<Tile::kDOutStages> dOut;
  uint32_t keysParity = 0;
  uint32_t parity = 0;  // of the query blocks that were computed
  uint32_t dqBox;
  KeyBlock keys;
  Factors factors;
  QueryEntry entry;  // of the scores
  OwnSums<Tile::kD> dk;
  OwnSums<Tile::kDv> dv;
  float scores[1][kN][4];
  float gradients[1][kN][4];
  uint32_t kept;  // 4 bits for each block of 8 queries

  static __device__ void Load(const HopperBackwardParams& p, uint8_t* shared, Barriers barriers) {
    if (BlockInCluster() == 0) BackwardLoader<Tile, PairCopies<Tile>>{p.call, {p, shared, barriers}}.LoadAll();
  }

  static __device__ void Compute(const HopperBackwardParams& p, uint8_t* shared, Barriers barriers) {
    WideKeys(p, shared, barriers).ComputeAll();
  }

  __device__ WideKeys(const HopperBackwardParams& params, uint8_t* shared, Barriers barriers)
      : params(params),
        p(params.call),
        shared(shared),
        base(SharedAddress(shared)),
        barriers(barriers),
        rank(BlockInCluster()),
        group(threadIdx.x / kWarpgroup),
        warpRow(threadIdx.x % kWarpgroup / kWarp * 16),
        adds(threadIdx.x % kWarpgroup == 0),
        dqBox(base + Tile::kDqAt + group * Tile::kDqBoxes * Tile::kDqBoxBytes) {}

  __device__ void ReadEntry() {
    WaitParityOfCluster(barriers.queriesFull(queries.stage), queries.parity);
    entry = reinterpret_cast<const QueryEntry*>(shared + Tile::kEntriesAt)[queries.stage];
  }

  __device__ uint32_t QueriesTile() const { return base + Tile::kQueriesAt + queries.stage * Tile::kQueryBytes; }
  __device__ uint32_t DOutTile() const { return base + Tile::kDOutAt + dOut.stage * Tile::kDOutBytes; }
  // Two tiles take turns: while one is written, products may read the other.
  __device__ uint32_t GradientsTile() const { return base + Tile::kGradientsAt + parity * Tile::kWeightBytes; }
  __device__ int Head() const { return keys.keyHead * keys.group + entry.head; }
  __device__ int OwnQuery() const { return entry.block * Tile::kBlockQ + group * 32; }

  // Arrives at a barrier of a thread block, once for a warp.
  __device__ void ArriveIn(int block, uint32_t barrier) const {
    __syncwarp();
    if (IsFirstLane()) ArriveThere(InBlock(barrier, block));
  }

  // A term of two rows of block n.
  __device__ float2 RowTerm(int which, int n) const {
    const uint8_t* stats = shared + Tile::kStatsAt + (queries.stage * 3 + which) * Tile::kStatBytes;
    return *reinterpret_cast<const float2*>(stats + (group * 32 + ElementColumn(n, 0)) * 4);
  }

  __device__ void IssueScores() {
    IssueTransposed<T, Tile::kD, Tile::kOwnKeys, Tile::kBlockQ>(scores[0], base,
                                                                QueriesTile() + group * 32 * kPageRowBytes);
  }

  // Issues products of values and dO.
  __device__ void IssueGradients() {
    WaitParity(barriers.dOutFull(dOut.stage), dOut.parity);
    IssueTransposed<T, Tile::kDv, Tile::kOwnKeys, Tile::kBlockQ>(gradients[0], base + Tile::kValuesAt,
                                                                 DOutTile() + group * 32 * kPageRowBytes);
  }

  // Turns scores into weights. Writes these for dv, when those of the query block before, of this parity, were read.
  __device__ void Weigh(uint32_t parityBefore) {
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
    WaitParity(barriers.weightsFree(), parityBefore);
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
      kept |= KeptTransposed(p.dropout, keys.b * p.sizes.H + Head(), OwnQuery() + ElementColumn(n, 0),
                             keys.c0 + warpRow + ElementRow(0, 0))
              << n * 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) keptWeights[0][n][i] = kept >> (n * 4 + i) & 1 ? scores[0][n][i] : 0.f;
    }
    StoreTile<T, 1, Tile::kOwnKeys, 0>(base + Tile::kWeightsAt, keptWeights, warpRow, group * 32);
  }

  // Turns products of values and dO into gradients of scores, writes these, and waits for the other warpgroup's.
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
    StoreTile<T, 1, Tile::kOwnKeys, 0>(GradientsTile(), gradients, warpRow, group * 32);
    FenceAsync();
    SyncThreads<Tile::kComputing>(1);
  }

  // Copies the gradients to the other thread block, when that has a place for them, and expects its gradients.
  __device__ void ExchangeGradients() const {
    if (threadIdx.x != 0) return;
    const int peer = rank ^ 1;
    ArriveExpecting(barriers.peerGradientsFull(), Tile::kWeightBytes);
    WaitParityOfCluster(barriers.placeAtPeerFree(), parity ^ 1);
    CopyThere(InBlock(base + Tile::kPeerGradientsAt, peer), GradientsTile(), Tile::kWeightBytes,
              InBlock(barriers.peerGradientsFull(), peer));
  }

  // Issues dq of 64 queries and 64 channels: summed over own keys, and over those of the other thread block.
  __device__ void IssueDq(float (&dq)[8][4]) const {
    const auto products = [&](uint32_t a, uint32_t b, bool add) {
      const auto left = Descriptor::OfColumns<Tile::kPageBytes>(a);
      const auto right = Descriptor::OfColumns<Tile::kPageBytes>(b);
#pragma unroll
      for (int k = 0; k < Tile::kOwnKeys / 16; ++k) {
        const int rows = k * 16 * kPageRowBytes;
        Product16<true, true>(dq, left.At(rows), right.At(rows), add || k != 0, T());
      }
    };
    WaitParity(barriers.peerGradientsFull(), parity);
    Pin(dq);
    FenceProducts();
    products(GradientsTile(), base + ChannelOffset(Tile::DqChannel(rank, group)), false);
    products(base + Tile::kPeerGradientsAt, base + Tile::kPeerKeysAt + group * Tile::kPageBytes, true);
    CommitProducts();
  }

  // Adds dq of 64 queries of head h, from dqRow on, to memory.
  __device__ void AddDq(const float (&dq)[8][4], int h, int dqRow) {
#pragma unroll
    for (int box = 0; box < 2; ++box) {
      if (box == Tile::DqBoxes(group)) break;
      if (adds) WaitBulkRead<Tile::kDqBoxes - 1>();
      SyncThreads<kWarpgroup>(2 + group);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float (&block)[4] = dq[box * 4 + n];
          const int row = warpRow + ElementRow(0, 2 * half);
          const int chunk = ElementColumn(n, 0) / 4 ^ (row & 7);
          StoreSharedPair(dqBox + row * kPageRowBytes + chunk * 16 + ElementColumn(n, 0) % 4 * 4,
                          block[2 * half] * factors.dq, block[2 * half + 1] * factors.dq);
        }
      }
      FenceAsync();
      SyncThreads<kWarpgroup>(2 + group);
      if (adds) {
        AddBox(&params.dq, dqBox, Tile::DqChannel(rank, group) + box * 32, dqRow, h, keys.b);
        CommitBulk();
      }
      if (Tile::kDqBoxes == 2) {
        dqBox = 2 * (base + Tile::kDqAt) + (4 * group + 1) * Tile::kDqBoxBytes - dqBox;
      }
    }
  }

  // After the products for dv.
  __device__ void FreeDOut() {
    dv.Pin();
    ArriveAsWarp(barriers.weightsFree());
    ArriveIn(0, barriers.dOutFree(dOut.stage));
    dOut.Advance();
  }

  // After the products for dk.
  __device__ void FreeQueries(int stage) {
    dk.Pin();
    ArriveIn(0, barriers.queriesFree(stage));
  }

  // After the products for dq.
  __device__ void FreePeerGradients() { ArriveIn(rank ^ 1, barriers.placeAtPeerFree()); }

  // All query blocks that see the keys. `entry` is the first.
  __device__ void WalkQueries() {
    WaitParity(barriers.keysFull(), keysParity);
    keysParity ^= 1;
    IssueScores();
    IssueGradients();
    WaitProducts<1>();
    Weigh(parity ^ 1);
    WaitProducts<0>();
    Grade();
    for (;;) {
      const int stage = queries.stage;
      const uint32_t queriesTile = QueriesTile();
      const int h = Head();
      const int r0 = entry.block * Tile::kBlockQ;
      if (p.accumulateDq) ExchangeGradients();
      dv.template Issue<T>(base + Tile::kWeightsAt, DOutTile(), group);
      queries.Advance();
      ReadEntry();
      const bool more = entry.block >= 0;
      IssueScores();  // without a query block these are never read, but a branch would let products wait
      dk.template Issue<T>(GradientsTile(), queriesTile, group);
      WaitProducts<1>();
      FreeDOut();
      if (more) Weigh(parity);
      float dq[8][4];
      if (p.accumulateDq) {
        IssueDq(dq);
        WaitProducts<1>();
        FreeQueries(stage);
        if (!more) {
          WaitProducts<0>();
          Pin(dq);
          FreePeerGradients();
          AddDq(dq, h, r0);
          break;
        }
        IssueGradients();
        WaitProducts<1>();
        Pin(dq);
        FreePeerGradients();
        AddDq(dq, h, r0);
        WaitProducts<0>();
      } else {
        WaitProducts<0>();
        FreeQueries(stage);
        if (!more) break;
        IssueGradients();
        WaitProducts<0>();
      }
      parity ^= 1;
      Grade();
    }
    parity ^= 1;
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
      keys.c0 += rank * Tile::kOwnKeys;
      factors = FactorsOf<T, 1>(p, keys.keyBatchHead);
      dk.Clear();
      dv.Clear();
      if (entry.block >= 0) {
        WalkQueries();
        ArriveIn(0, barriers.keysFree());
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
  const auto launch = heads.kD == 256    ? LaunchHopperBackwardTile<T, WideKeys, HopperPairTile<256, 256>>
                      : heads.kDv == 192 ? LaunchHopperBackwardTile<T, WideKeys, HopperPairTile<192, 192>>
                                         : LaunchHopperBackwardTile<T, WideKeys, HopperPairTile<192, 128>>;
  return launch(call, stream);
}

}  // namespace flashmask::cuda
