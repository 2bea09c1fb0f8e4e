// What the backward kernels on Hopper share: the block of keys that a thread block takes, and the warp that loads its
// keys and, stage by stage, the live query blocks of all query heads of the key head. A tile with kFreesDOut has stages
// of dO apart from those of queries, so that dO can have fewer.
#pragma once

#include "column_block.cuh"
#include "dropout.cuh"
#include "hopper.cuh"
#include "not_finite.cuh"

namespace flashmask::cuda {

struct HopperBackwardParams {
  CUtensorMap q, k, v, dOut;
  CUtensorMap dq;  // in boxes of 32 floats x 64 rows
  BackwardParams call;
};

// What the loading warp tells of a stage: a query block of a head of the group for the key block `work`, or the end of
// the key block (block -1), or the end of all work (work -1).
struct QueryEntry {
  int work, head, block;
  TileKind kind;
};

// The barriers of a thread block. Without kFreesDOut, free() frees the dO of a stage too.
template <class Tile>
struct BackwardBarriers {
  static constexpr int kBytes = (2 + 2 * Tile::kStages + 2 * Tile::kDOutStages) * 8;
  uint32_t base;
  __device__ uint32_t keysFull() const { return base; }
  __device__ uint32_t keysFree() const { return base + 8; }
  __device__ uint32_t queriesFull(int stage) const { return base + 16 + stage * 16; }
  __device__ uint32_t free(int stage) const { return base + 24 + stage * 16; }
  __device__ uint32_t dOutFull(int stage) const { return free(Tile::kStages - 1) + 8 + stage * 16; }
  __device__ uint32_t dOutFree(int stage) const { return free(Tile::kStages - 1) + 16 + stage * 16; }

  __device__ void Init() const {
    // One warp loads; each warp that computes frees for itself.
    constexpr int kWarps = Tile::kComputing / kWarp;
    InitBarrier(keysFull(), 1);
    InitBarrier(keysFree(), kWarps);
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      InitBarrier(queriesFull(stage), 1);
      InitBarrier(free(stage), kWarps);
    }
    for (int stage = 0; stage < Tile::kDOutStages; ++stage) {
      InitBarrier(dOutFull(stage), 1);
      InitBarrier(dOutFree(stage), kWarps);
    }
    FenceBarrierInit();
  }
};

// The key block that is taken as number `work`. Heads take turns, so that those with the most work come first.
template <class Tile>
__device__ inline KeyBlock TakenKeys(int work, const Sizes& s, const Mask& mask) {
  return KeyBlockAt<Tile::kBlockK>(work, s, mask.causal || mask.spans != nullptr);
}

template <class Tile>
struct BackwardLoader {
  const HopperBackwardParams& p;
  uint32_t shared;
  QueryEntry* entries;
  BackwardBarriers<Tile> barriers;
  Place<Tile::kStages> place;
  Place<Tile::kDOutStages> dOutPlace;
  uint32_t keysParity = 1;

  __device__ BackwardLoader(const HopperBackwardParams& p, uint8_t* shared, BackwardBarriers<Tile> barriers)
      : p(p),
        shared(SharedAddress(shared)),
        entries(reinterpret_cast<QueryEntry*>(shared + Tile::kEntriesAt)),
        barriers(barriers) {}

  // Tells what has no tile.
  __device__ void Tell(const QueryEntry& entry) {
    WaitParity(barriers.free(place.stage), place.parity ^ 1);
    if (IsFirstLane()) {
      entries[place.stage] = entry;
      Arrive(barriers.queriesFull(place.stage));
      if (!Tile::kFreesDOut) Arrive(barriers.dOutFull(dOutPlace.stage));
    }
    place.Advance();
    if (!Tile::kFreesDOut) dOutPlace.Advance();
  }

  __device__ void LoadKeys(const KeyBlock& keys) {
    WaitParity(barriers.keysFree(), keysParity);
    keysParity ^= 1;
    if (!IsFirstLane()) return;
    ArriveExpecting(barriers.keysFull(), Tile::kKeyBytes + Tile::kValueBytes);
    CopyPages<Tile::kD, Tile::kBlockK>(shared, &p.k, barriers.keysFull(), keys.c0, keys.keyHead, keys.b);
    CopyPages<Tile::kDv, Tile::kBlockK>(shared + Tile::kValuesAt, &p.v, barriers.keysFull(), keys.c0, keys.keyHead,
                                        keys.b);
  }

  __device__ void LoadQueries(const KeyBlock& keys, const QueryEntry& entry) {
    const BackwardParams& call = p.call;
    const int h = keys.keyHead * keys.group + entry.head;
    const int r0 = entry.block * Tile::kBlockQ;
    const int64_t row = static_cast<int64_t>(keys.b * call.sizes.H + h) * call.rowsOfHead + r0;
    WaitParity(barriers.free(place.stage), place.parity ^ 1);
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
    }
    place.Advance();
    LoadDOut(keys, h, r0);
  }

  __device__ void LoadDOut(const KeyBlock& keys, int h, int r0) {
    if (Tile::kFreesDOut) WaitParity(barriers.dOutFree(dOutPlace.stage), dOutPlace.parity ^ 1);
    if (IsFirstLane()) {
      const uint32_t full = barriers.dOutFull(dOutPlace.stage);
      ArriveExpecting(full, Tile::kDOutBytes);
      CopyPages<Tile::kDv, Tile::kBlockQ>(shared + Tile::kDOutAt + dOutPlace.stage * Tile::kDOutBytes, &p.dOut, full,
                                          r0, h, keys.b);
    }
    dOutPlace.Advance();
  }

  __device__ void LoadKeyBlock(int work) {
    const BackwardParams& call = p.call;
    const Sizes& s = call.sizes;
    const KeyBlock keys = TakenKeys<Tile>(work, s, call.mask);
    const int offset = s.Sk - s.Sq;
    const int firstBlock = call.mask.causal ? max(keys.c0 - offset, 0) / Tile::kBlockQ : 0;
    const int blocks = (s.Sq + Tile::kBlockQ - 1) / Tile::kBlockQ;
    // Key heads with numbers that are not finite are left to the kernel of backward.cuh.
    const int heads = HasNotFinite(call, keys.keyBatchHead) ? 0 : keys.group;
    bool loaded = false;
    for (int head = 0; head < heads; ++head) {
      const int64_t maskHead = MaskHeadOf(call.mask, keys.b, keys.keyHead * keys.group + head, s.H);
      const BlockBounds bounds = ReadBlockBounds<Tile::kBlockK>(call.mask, maskHead, keys.block);
      const auto classify = [&](int block) {
        const int r0 = block * Tile::kBlockQ;
        return Classify(bounds, call.mask.causal, r0, min(r0 + Tile::kBlockQ, s.Sq), keys.c0, keys.c1,
                        keys.c0 + Tile::kBlockK > s.Sk, offset);
      };
      LiveBlocks live(firstBlock, blocks);
      bool partial;
      for (int block; (block = live.Next(&partial, classify)) >= 0;) {
        if (!loaded) LoadKeys(keys);
        loaded = true;
        LoadQueries(keys, {work, head, block, live.Kind(block)});
      }
    }
    Tell({work, -1, -1, kEmpty});
  }

  __device__ void LoadAll() {
    const Sizes& s = p.call.sizes;
    const int works = s.B * s.Hkv * ((s.Sk + Tile::kBlockK - 1) / Tile::kBlockK);
    for (int work = blockIdx.x; work < works;) {
      LoadKeyBlock(work);
      if (IsFirstLane()) work = gridDim.x + atomicAdd(p.call.counter, 1);
      work = __shfl_sync(~0u, work, 0);
    }
    Tell({-1, -1, -1, kEmpty});
  }
};

// Sets masked scores of a warp's part of a transposed tile to minus infinity. The part begins at key row0 of the
// problem, the tile at query r0. `spans` are those of the mask head.
template <int kN>
__device__ inline void HideMaskedKeys(float (&scores)[kN][4], const int4* spans, bool causal, int row0, int r0, int Sq,
                                      int Sk) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = row0 + ElementRow(0, 2 * half);
    const bool outside = key >= Sk;
    const int first = outside ? 0x7fffffff : causal ? key - (Sk - Sq) : -0x7fffffff;
    const int4 span = spans == nullptr || outside ? int4{0, 0, 0, 0} : __ldg(&spans[key]);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int row = r0 + ElementColumn(n, e);
        const bool hidden = row < first || static_cast<uint32_t>(row - span.x) < static_cast<uint32_t>(span.y) ||
                            static_cast<uint32_t>(row - span.z) < static_cast<uint32_t>(span.w);
        if (hidden) scores[n][2 * half + e] = -kInfinity;
      }
    }
  }
}

// Which of the four elements of a block of a transposed tile are kept: bit i is element i's. Its first element is the
// pair of query `row` and key `column`. One Philox counter serves four keys of one query, which four lanes have: each
// of these draws for one of the queries and halves.
__device__ inline uint32_t KeptTransposed(const Dropout& d, int batchHead, int row, int column) {
  const int own = threadIdx.x / 4 % 4;  // the key among four
  const uint32_t drawn = static_cast<uint32_t>(column - own + (own >> 1) * 8) >> 2;
  const uint4 x = Philox(drawn, row + (own & 1), batchHead, d.key0, d.key1);
  const uint32_t bits =
      (x.x >= d.threshold) | (x.y >= d.threshold) << 1 | (x.z >= d.threshold) << 2 | (x.w >= d.threshold) << 3;
  const int first = threadIdx.x % kWarp - own * 4;
  uint32_t kept = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) kept |= (__shfl_sync(~0u, bits, first + i * 4) >> own & 1) << i;
  return kept;
}

}  // namespace flashmask::cuda
