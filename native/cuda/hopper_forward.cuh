// The forward kernels on Hopper, of 16-bit numbers and of split floats. Thread blocks stay and take one row block after
// another. One warp loads, others tell what is masked. Each of the warpgroups that compute keeps 64 queries; it issues
// the scores of the next key block before the output of this one, so that exponentials run beside products. Split
// floats have three times the products: their exponentials run beside the other warpgroup's alone, which spares
// registers.
#pragma once

#include "hopper_forward_loader.cuh"
#include "hopper_forward_mask.cuh"
#include "hopper_forward_store.cuh"
#include "hopper_launch.cuh"
#include "hopper_weights.cuh"
#include "overlap.cuh"

namespace flashmask::cuda {

// The work of a warpgroup that computes.
template <class T, class Tile, bool kDrops>
class RowComputer {
 public:
  __device__ RowComputer(const HopperForwardParams& params, uint8_t* shared, Barriers<Tile> barriers)
      : params_(params),
        p_(params.call),
        shared_(shared),
        base_(SharedAddress(shared)),
        warpRow_(static_cast<int>(threadIdx.x) / kWarp * 16),
        barriers_(barriers),
        group_(OwnWarpgroup()) {}

  __device__ void ComputeAll() {
    if (threadIdx.x >= kWarpgroup) PassTurn();
    for (;;) {
      AwaitKeys();
      const KeyTile tile = ScoredTile();
      if (tile.block == kEndOfWork) return WaitBulkRead();
      Begin(EntryOf(scored_));
      if (tile.block != kEndOfRows) {
        TakeQueries();
        ComputeBlocks(tile);
      }
      const RowBlock rows = EntryOf(scored_).rows;
      scored_.Advance();
      FreeKeys();
      Store(rows);
    }
  }

 private:
  static constexpr int kN = Tile::kBlockK / 8;
  using Scores = float[1][kN][4];
  static constexpr int kParts = Tile::kParts;
  using Weights = uint32_t[kParts][kN / 2][4];

  // What is kept of an entry.
  struct KeyTile {
    int block;
    TileKind kind;
  };

  // Keeps of a row block only what every key block needs, because registers are few.
  __device__ void Begin(const Entry& entry) {
    row_ = entry.rows.r0 + warpRow_;
    batchHead_ = entry.rows.batchHead;
    scale2_ = entry.scale2;
    notFinite_ = entry.notFinite;
    Clear(out_);
    stats_.reference[0][0] = stats_.reference[0][1] = -kInfinity;
    stats_.sum[0][0] = stats_.sum[0][1] = 0;
    unseen_ = true;
  }

  __device__ void Store(const RowBlock& at) {
    if (Tile::kStoreBoxes > 0 && !notFinite_ && IsStoredInBoxes(p_.out)) {
      const int group = threadIdx.x / kWarpgroup;
      const uint32_t boxes = base_ + Tile::kStoreAt + group * Tile::kStoreBoxes * Tile::kStoreBoxBytes;
      float factors[2];
      FinishRows(factors, p_, at, warpRow_, stats_);
      StoreBoxes<Tile>(&params_.out, boxes, kStores + group, at, warpRow_, out_[0], factors);
    } else {
      StoreOutput<T, kParts>(p_, at, warpRow_, out_, stats_);
    }
    // Comes last after both, because the compiler then keeps addresses of products in uniform registers.
    if (notFinite_) {
      SyncThreads<Tile::kComputing>(1);
      AddNotFiniteValues<T, Tile::kBlockK, Tile::kComputing>(p_, at);
    }
  }

  __device__ void TakeQueries() {
    WaitParity(barriers_.queriesFull(), queriesParity_);
    queriesParity_ ^= 1;
    if constexpr (Tile::kKeepsQueries) {
      const uint32_t address = LaneAddress<Tile::kBlockQ>(base_, warpRow_ / 16, 0, true);
#pragma unroll
      for (int k = 0; k < Tile::kD / 16; ++k) {
        LoadMatrix<false>(queries_[k], BlockAddress<Tile::kBlockQ>(address, 0, k));
      }
      ArriveAsWarp(barriers_.queriesFree());
    }
  }

  // No scores are issued any more.
  __device__ void FreeQueries() {
    if constexpr (!Tile::kKeepsQueries) ArriveAsWarp(barriers_.queriesFree());
  }

  // Waits for the next key block, or the end.
  __device__ void AwaitKeys() { WaitParity(barriers_.keysFull(scored_.stage), scored_.parity); }

  __device__ const Entry& EntryOf(const Place<Tile::kKeyStages>& place) const {
    return reinterpret_cast<const Entry*>(shared_ + Tile::kEntriesAt)[place.stage];
  }

  __device__ KeyTile ScoredTile() const { return {EntryOf(scored_).block, EntryOf(scored_).kind}; }

  __device__ void FreeKeys() {
    ArriveAsWarp(barriers_.keysFree(weighed_.stage));
    weighed_.Advance();
  }

  // The barriers from here on are those of the warpgroups' turns, and of each one's stores.
  static constexpr int kTurns = 2;
  static constexpr int kStores = kTurns + Tile::kBlockQ / 64;

  __device__ void TakeTurn() {
    if constexpr (Tile::kTakesTurns) SyncThreads<Tile::kComputing>(kTurns + threadIdx.x / kWarpgroup);
  }

  __device__ void PassTurn() {
    if constexpr (Tile::kTakesTurns) ArriveThreads<Tile::kComputing>(kTurns + 1 - threadIdx.x / kWarpgroup);
  }

  // Issues the scores of the next key block, whose keys are there.
  __device__ void IssueScores(Scores& scores) {
    const uint32_t keys = Agreed(base_ + Tile::kKeysAt + scored_.stage * Tile::kKeyBytes);
    if constexpr (Tile::kKeepsQueries) {
      IssueTransposed<T, Tile::kBlockK>(scores[0], queries_, keys);
    } else {
      const uint32_t queries = base_ + group_ * 64 * kPageRowBytes;
      IssueScoresOf<T, kParts, Tile::kD, Tile::kBlockQ, Tile::kBlockK, false>(scores[0], queries, keys);
    }
    scored_.Advance();
  }

  // Waits for what is hidden in a partial tile. Comes before the wait for its scores, after which the compiler knows
  // that a warp is together. If it does not, each vote of the tile takes a branch.
  __device__ void AwaitMask(const KeyTile& tile) {
    if constexpr (Tile::kMaskers > 0) {
      if (tile.kind == kLive) return;
      WaitParity(barriers_.hiddenFull(weighed_.stage), hiddenParities_ >> weighed_.stage & 1);
      hiddenParities_ ^= 1 << weighed_.stage;
    }
  }

  __device__ void HideMasked(Scores& scores, int column) const {
    if constexpr (Tile::kMaskers == 0) {
      HideEdge(scores[0], p_.mask.causal, row_, column, p_.sizes);
    } else {
      HideBits(scores[0], shared_ + Tile::kMasksAt + weighed_.stage * Tile::kMaskBytes, warpRow_);
    }
  }

  // Turns the scores of a key block into weights. Gives whether the output must be multiplied by the factors.
  __device__ bool WeighBlock(const KeyTile& tile, Scores& scores, Weights& weights) {
    const int column = tile.block * Tile::kBlockK;
    if (tile.kind != kLive) HideMasked(scores, column);
    if constexpr (Tile::kWeighsInPlace) return WeighInPlace(scores);
    // With the keys, copies overwrite the mask too.
    FreeKeys();
    const bool raised = Weigh<T>(stats_, unseen_, factors_, weights, scores[0], scale2_);
    if constexpr (kDrops) DropWeights(weights, p_.dropout, batchHead_, row_, column);
    return raised;
  }

  // The same, where the weights are rounded later.
  __device__ bool WeighInPlace(Scores& scores) {
    constexpr int kShift = kReferenceShift<T, 1>;
    const bool raised =
        MayExceed<kShift>(stats_, scores[0], scale2_) && RaiseReferences<kShift>(stats_, factors_, scores, scale2_);
    ScoresToWeights<kProductShift<T, 1>>(stats_, scores, scale2_);
    // Sums are never negative. That they are asked for keeps the compiler from moving exponentials behind the wait for
    // the output.
    if (__any_sync(~0u, !(stats_.sum[0][0] + stats_.sum[0][1] < 0))) FreeKeys();
    return raised;
  }

  // Waits for the values of a key block. Both warpgroups come here before they take their turns.
  __device__ void AwaitValues(const KeyTile& tile) {
    WaitParity(barriers_.valuesFull(values_.stage), values_.parity);
    if (notFinite_ && tile.kind != kLive) {
      SyncThreads<Tile::kComputing>(1);
      ClearNotFinite<T, Tile::kValueBytes, Tile::kComputing>(shared_ + ValuesAt());
      FenceAsync();
      SyncThreads<Tile::kComputing>(1);
    }
  }

  __device__ int ValuesAt() const { return Tile::kValuesAt + values_.stage * Tile::kValueBytes; }

  __device__ void IssueOutput(const Weights& weights) {
    IssueSum<T, Tile::kBlockK, true>(out_[0], tile_, weights, Agreed(base_ + ValuesAt()));
  }

  __device__ void FinishOutput() {
    WaitProducts<0>();
    FinishSum<kParts>(out_[0], tile_);
    ArriveAsWarp(barriers_.valuesFree(values_.stage));
    values_.Advance();
  }

  __device__ void ComputeBlocks(KeyTile tile) {
    Scores scores;
    Weights weights;
    IssueScores(scores);
    AwaitMask(tile);
    WaitProducts<0>();
    Pin(scores[0]);
    WeighBlock(tile, scores, weights);
    if constexpr (Tile::kWeighsInPlace) PackLeft<T>(weights[0], scores[0]);
    if constexpr (Tile::kWeighsInPlace || kParts == 2) {
      while (OutputAndWeighNext(&tile, scores, weights, weights)) {
      }
    } else {
      Weights nextWeights;
      while (OutputAndWeighNext(&tile, scores, weights, nextWeights) &&
             OutputAndWeighNext(&tile, scores, nextWeights, weights)) {
      }
    }
  }

  // The output of a key block, while the next is weighed. Gives whether there is a next one.
  __device__ bool OutputAndWeighNext(KeyTile* tile, Scores& scores, const Weights& weights, Weights& nextWeights) {
    AwaitKeys();
    const KeyTile next = ScoredTile();
    AwaitValues(*tile);
    if (next.block < 0) {
      FreeQueries();
      IssueOutput(weights);
      FinishOutput();
      return false;
    }
    TakeTurn();
    IssueScores(scores);
    IssueOutput(weights);
    PassTurn();
    AwaitMask(next);
    if constexpr (kParts == 1) {
      WaitProducts<1>();
    } else {
      FinishOutput();
    }
    Pin(scores[0]);
    const bool raised = WeighBlock(next, scores, nextWeights);
    if constexpr (kParts == 1) FinishOutput();
    if constexpr (Tile::kWeighsInPlace) PackLeft<T>(nextWeights[0], scores[0]);
    if (raised) Rescale(out_, factors_);
    *tile = next;
    return true;
  }

  const HopperForwardParams& params_;
  const ForwardParams& p_;
  uint8_t* shared_;
  uint32_t base_;
  int warpRow_;
  Barriers<Tile> barriers_;
  int group_;
  Place<Tile::kKeyStages> scored_, weighed_;
  Place<Tile::kValueStages> values_;
  uint32_t queriesParity_ = 0;
  uint32_t hiddenParities_ = 0;  // a bit for each stage, because only partial tiles have hidden pairs
  // Of the row block.
  int row_;  // the warp's first
  int batchHead_;
  float scale2_;
  bool notFinite_;
  uint32_t queries_[Tile::kD / 16][4];
  RowStats<1> stats_;
  bool unseen_;
  float factors_[1][2];
  float out_[1][Tile::kDv / 8][4];
  SumTile<kParts, Tile::kDv / 8> tile_;
};

template <class T, class Tile, bool kDrops>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    HopperForwardKernel(const __grid_constant__ HopperForwardParams p) {
  if constexpr (kHopper) {
    extern __shared__ __align__(1024) uint8_t shared[];
    const Barriers<Tile> barriers = {SharedAddress(shared + Tile::kBarriersAt)};
    if (threadIdx.x == 0) barriers.Init();
    __syncthreads();
    WaitForKernelBefore();
    // If the compiler did not see that a warp agrees, the warp that loads would have too few registers.
    const int helper = Agreed((static_cast<int>(threadIdx.x) - Tile::kComputing) / kWarp);
    RunRoles<Tile, 1 + Tile::kMaskers>(
        [&] {
          if (helper == 0) {
            Loader<Tile>(p, shared, barriers).LoadAll();
          } else if constexpr (Tile::kMaskers > 0) {
            Masker<Tile>(p.call, shared, barriers, helper - 1).MaskAll();
          }
        },
        [&] { RowComputer<T, Tile, kDrops>(p, shared, barriers).ComputeAll(); });
  } else {
    __trap();
  }
}

template <class T, class Tile>
cudaError_t LaunchHopperForwardTile(const ForwardParams& call, cudaStream_t stream) {
  const Sizes& s = call.sizes;
  HopperForwardParams params;
  params.call = call;
  cudaError_t error = Describe<T>(&params.q, call.q, s.Sq, s.H, Tile::kParts * s.B, Tile::kBlockQ);
  if (error == cudaSuccess) error = Describe<T>(&params.k, call.k, s.Sk, s.Hkv, Tile::kParts * s.B, Tile::kBlockK);
  if (error == cudaSuccess) error = Describe<T>(&params.v, call.v, s.Sk, s.Hkv, Tile::kParts * s.B, Tile::kBlockK);
  if (error == cudaSuccess && IsStoredInBoxes(call.out)) {
    error = Describe<float>(&params.out, call.out, s.Sq, s.H, s.B, 64);
  }
  if (error != cudaSuccess) return error;
  const int64_t works = int64_t{s.B} * s.H * ((s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ);
  const auto kernel = call.dropout.threshold == 0 ? HopperForwardKernel<T, Tile, false>
                                                  : HopperForwardKernel<T, Tile, !Tile::kWeighsInPlace>;
  return LaunchStaying<Tile>(kernel, params, works, stream);
}

// Whether row blocks of 192 queries are faster than those of 128: by about an eighth, unless processors then wait for
// each other. With intervals they have more pairs in partial tiles. Their kernel has no registers for dropout.
inline bool SuitsLargeBlocks(const ForwardParams& call) {
  if (call.mask.spans != nullptr || call.dropout.threshold != 0) return false;
  const Sizes& s = call.sizes;
  const auto time = [&](int blockQ) {
    const int64_t works = int64_t{s.B} * s.H * ((s.Sq + blockQ - 1) / blockQ);
    return (works + Processors() - 1) / Processors() * blockQ;
  };
  return 8 * time(192) <= 9 * time(128);
}

template <class T>
cudaError_t LaunchHopperForward(const HopperHeads& heads, const ForwardParams& call, cudaStream_t stream) {
  const auto launch = [&] {
    switch (heads.D) {
      case 64:
        return SuitsLargeBlocks(call) ? LaunchHopperForwardTile<T, HopperForwardTile<64, 64, 3, 3, false, false, 192>>
                                      : LaunchHopperForwardTile<T, HopperForwardTile<64, 64, 4, 4, true, true>>;
      case 96:
        return LaunchHopperForwardTile<T, HopperForwardTile<96, 96, 2, 2, true, false>>;
      case 128:
        return LaunchHopperForwardTile<T, HopperForwardTile<128, 128, 2, 2, false, false>>;
      case 192:
        return heads.Dv == 128 ? LaunchHopperForwardTile<T, HopperForwardTile<192, 128, 2, 2, false, false>>
                               : LaunchHopperForwardTile<T, HopperForwardTile<192, 192, 2, 2, false, false>>;
      default:
        return LaunchHopperForwardTile<T, HopperForwardTile<256, 256, 2, 2, false, false>>;
    }
  }();
  return launch(call, stream);
}

}  // namespace flashmask::cuda
