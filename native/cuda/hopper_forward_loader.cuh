// The work of the loading warp of Hopper's forward kernels: it takes row blocks, finds their live key blocks, and
// starts the copies of queries, keys and values.
#pragma once

#include "exponents.cuh"
#include "hopper_forward_tile.cuh"
#include "hopper_split.cuh"
#include "not_finite.cuh"

namespace flashmask::cuda {

struct HopperForwardParams {
  CUtensorMap q, k, v;
  CUtensorMap out;  // in boxes of 32 floats x 64 rows, if its rows suit the copy engine
  ForwardParams call;
};

template <class Tile>
struct Loader {
  const HopperForwardParams& p;
  uint32_t shared;
  Entry* entries;
  Barriers<Tile> barriers;
  Place<Tile::kKeyStages> keys;
  Place<Tile::kValueStages> values;
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
    CopyTiles<Tile::kParts, Tile::kD, Tile::kBlockQ>(shared, &p.q, barriers.queriesFull(), at.r0, at.h, at.b,
                                                     p.call.sizes.B);
  }

  __device__ void LoadKeys(const Entry& entry) {
    WaitAsWarp(barriers.keysFree(keys.stage), keys.parity ^ 1);
    if (IsFirstLane()) {
      const RowBlock& at = entry.rows;
      const Mask& mask = p.call.mask;
      const int Sk = p.call.sizes.Sk;
      const int c0 = entry.block * Tile::kBlockK;
      const uint32_t full = barriers.keysFull(keys.stage);
      const bool spans = (entry.kind & (kHidesLower | kHidesUpper)) != 0;
      const uint32_t spanBytes = spans ? min(Tile::kBlockK, Sk - c0) * sizeof(int4) : 0;
      entries[keys.stage] = entry;
      ArriveExpecting(full, Tile::kKeyBytes + spanBytes);
      CopyTiles<Tile::kParts, Tile::kD, Tile::kBlockK>(shared + Tile::kKeysAt + keys.stage * Tile::kKeyBytes, &p.k,
                                                       full, c0, at.keyHead, at.b, p.call.sizes.B);
      if (spans) {
        CopyBulk(shared + Tile::kMasksAt + keys.stage * Tile::kMaskBytes, mask.spans + at.maskHead * Sk + c0, spanBytes,
                 full);
      }
    }
    keys.Advance();
  }

  __device__ void LoadValues(const RowBlock& at, int block) {
    WaitAsWarp(barriers.valuesFree(values.stage), values.parity ^ 1);
    if (IsFirstLane()) {
      const uint32_t full = barriers.valuesFull(values.stage);
      ArriveExpecting(full, Tile::kValueBytes);
      CopyTiles<Tile::kParts, Tile::kDv, Tile::kBlockK>(shared + Tile::kValuesAt + values.stage * Tile::kValueBytes,
                                                        &p.v, full, block * Tile::kBlockK, at.keyHead, at.b,
                                                        p.call.sizes.B);
    }
    values.Advance();
  }

  // The key blocks that may be live. The plan of a call with other lengths must not lead past the keys.
  __device__ LiveBlocks LiveKeys(const RowBlock& at) const {
    const ForwardParams& call = p.call;
    LiveBlocks live = LiveKeyBlocks<Tile::kBlockK>(at, call.sizes, call.mask, call.ranges);
    live.base = max(live.base, -kWarp);
    live.end = min(live.end, (call.sizes.Sk + Tile::kBlockK - 1) / Tile::kBlockK);
    return live;
  }

  // The row block that is taken as number `work`. Heads take turns, so that those with the most work come first.
  __device__ Entry TakenRows(int work) {
    const ForwardParams& call = p.call;
    const bool inTurn = call.mask.causal || call.mask.spans != nullptr;
    const RowBlock rows = RowBlockAt<Tile::kBlockQ>(work, call.sizes, call.mask, inTurn);
    const int exponent = ExponentOf<Tile::kParts>(call.qFacts, rows.keyBatchHead) +
                         ExponentOf<Tile::kParts>(call.kFacts, rows.keyBatchHead);
    return {rows, ScaleOfScores(call.scoreScale, exponent), HasNotFinite(call.vFacts, rows.keyBatchHead), kEndOfRows,
            kEmpty};
  }

  __device__ void LoadRows(int work) {
    const ForwardParams& call = p.call;
    Entry entry = TakenRows(work);
    const RowBlock& at = entry.rows;
    LiveBlocks live = LiveKeys(at);
    const auto classify = [&](int block) { return ClassifyKeyBlock<Tile::kBlockK>(at, call.sizes, call.mask, block); };
    bool partial;
    entry.block = live.Next(&partial, classify);
    if (entry.block >= 0) LoadQueries(at);
    for (; entry.block >= 0; entry.block = live.Next(&partial, classify)) {
      entry.kind = live.Kind(entry.block);
      LoadKeys(entry);
      LoadValues(at, entry.block);
    }
    entry.block = kEndOfRows;
    Tell(entry);
  }

  __device__ void LoadAll() {
    const Sizes& s = p.call.sizes;
    const int works = s.B * s.H * ((s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ);
    for (int work = blockIdx.x; work < works;) {
      LoadRows(work);
      if (IsFirstLane()) work = gridDim.x + atomicAdd(p.call.counter, 1);
      work = __shfl_sync(~0u, work, 0);
    }
    Entry end = {};
    end.block = kEndOfWork;
    Tell(end);
  }
};

}  // namespace flashmask::cuda
