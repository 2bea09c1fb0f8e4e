// The warps that add dq to memory in the backward kernels on Hopper. Warpgroups that compute leave tiles of dq in
// shared memory, and go on. Two warps take turns at the tiles: while one waits until its tile is in memory, the other
// looks whose turn it is to add to the next.
//
// In order, each tile waits until the key block before has added to the same rows: the nearest earlier one of the head
// with a live tile there. The warp finds it by the classification by which that key block finds its own tiles. So
// nobody waits for a key block that has nothing to add. Key blocks only wait for those that were taken earlier, so one
// of them can always go on.
#pragma once

#include "hopper_key_block.cuh"

namespace flashmask::cuda {

// Boxes says which boxes of dq a place in shared memory has.
template <class Tile, class Barriers, class Boxes>
struct DqAdder {
  const HopperBackwardParams& params;
  const uint8_t* shared;
  Barriers barriers;
  int own;   // which of the warps this is
  int tile;  // the number of its next tile
  Place<Tile::kDqBuffers> dq;

  __device__ DqAdder(const HopperBackwardParams& params, const uint8_t* shared, Barriers barriers, int own)
      : params(params), shared(shared), barriers(barriers), own(own), tile(own) {}

  __device__ QueryEntry NextEntry() {
    const int place = tile % kToldTiles;
    WaitAsWarp(barriers.told(place), tile / kToldTiles & 1);
    tile += kDqAdders;
    return reinterpret_cast<const QueryEntry*>(shared + Tile::kToldAt)[place];
  }

  // The key block that adds to a query block before this one; -1 if there is none.
  __device__ int Before(const KeyBlock& keys, int h, int queryBlock) const {
    const BackwardParams& call = params.call;
    const int64_t maskHead = MaskHeadOf(call.mask, keys.b, h, call.sizes.H);
    for (int end = keys.block; end > 0; end -= kWarp) {
      const int block = end - 1 - static_cast<int>(threadIdx.x % kWarp);
      const auto isLive = [&] {
        const BlockBounds bounds = ReadBlockBounds<Tile::kBlockK>(call.mask, maskHead, block);
        return KindOfTile<Tile>(call, bounds, block, queryBlock) != kEmpty;
      };
      const uint32_t live = __ballot_sync(~0u, block >= 0 && isLive());
      if (live != 0) return end - __ffs(live);
    }
    return -1;
  }

  // Adds the places of a tile. Each is free again when it is read.
  __device__ void AddTile(const KeyBlock& keys, int h, int r0) {
    for (int part = 0; part < Boxes::kPlaces; ++part) {
      WaitAsWarp(barriers.dqFull(own, dq.stage), dq.parity);
      if (IsFirstLane()) {
        Boxes::Add(params.dq, SharedAddress(shared) + Tile::kDqAt, part, r0, h, keys.b);
        CommitBulk();
        WaitBulkRead();
        Arrive(barriers.dqFree(dq.stage));
      }
      dq.Advance();
    }
  }

  __device__ void AddInOrder(const KeyBlock& keys, int h, int queryBlock) {
    const BackwardParams& call = params.call;
    const int r0 = queryBlock * Tile::kBlockQ;
    const int64_t row = static_cast<int64_t>(keys.b * call.sizes.H + h) * call.rowsOfHead + r0;
    int* mark = call.order + row / kRowsOfMark + BlockInCluster();
    const int before = Before(keys, h, queryBlock);
    if (before >= 0 && IsFirstLane()) WaitMark(mark, before + 1);
    __syncwarp();
    AddTile(keys, h, r0);
    if (!IsFirstLane()) return;
    WaitBulk();
    SetMark(mark, keys.block + 1);
  }

  __device__ void AddAll() {
    int work = -1;
    KeyBlock keys;
    for (QueryEntry entry; (entry = NextEntry()).work >= 0;) {
      if (entry.work != work) keys = TakenKeys<Tile>(entry.work, params.call);
      work = entry.work;
      const int h = keys.keyHead * keys.group + entry.head;
      if (params.call.order == nullptr) {
        AddTile(keys, h, entry.block * Tile::kBlockQ);
      } else {
        AddInOrder(keys, h, entry.block);
      }
    }
  }
};

}  // namespace flashmask::cuda
