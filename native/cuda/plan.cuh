// The kernels that make the plan of a mask, after the one of bounds_map.cuh: the rows that see a key, the ranges of
// live tiles, and the work orders.
#pragma once

#include "mask.cuh"
#include "plan.h"

namespace flashmask::cuda {

struct PlanParams {
  Mask mask;
  Sizes sizes;  // the lengths
  Plan plan;
};

// The rows of a tile in the counts of a key block.
constexpr int kCountedRows = 64;

// Whether a row sees a key. The key at its own position is tried first, because most rows see it.
__device__ inline void FindSeeing(const PlanParams& p, int64_t head, int row) {
  const Mask& mask = p.mask;
  const Sizes& s = p.sizes;
  bool sees = Sees(mask, head, s, row, min(max(row + s.Sk - s.Sq, 0), s.Sk - 1));
  const auto classify = [&](int block) {
    const int c0 = block * kMapBlock;
    return Classify(ReadBlockBounds<kMapBlock>(mask, head, block), mask.causal, row, row + 1, c0,
                    min(c0 + kMapBlock, s.Sk), false, s.Sk - s.Sq);
  };
  LiveBlocks live(0, mask.mapBlocks);
  while (!sees) {
    bool partial;
    const int block = live.Next(&partial, classify);
    if (block < 0) break;
    const int column = block * kMapBlock + static_cast<int>(threadIdx.x % kWarp);
    sees = !partial || __any_sync(~0u, column < s.Sk && Sees(mask, head, s, row, column));
  }
  if (threadIdx.x % kWarp == 0) p.plan.seeing[head * s.Sq + row] = sees;
}

// The first of the live key blocks of a query block and their end, so that long rows with few live tiles do not visit
// all others.
__device__ inline void FindRange(const PlanParams& p, const TileRanges& tiles, int64_t head, int queryBlock) {
  const Sizes& s = p.sizes;
  const int r0 = queryBlock * tiles.blockQ;
  const int r1 = min(r0 + tiles.blockQ, s.Sq);
  int firstColumn = s.Sk;
  int endColumn = 0;
  for (int block = threadIdx.x % kWarp; block < p.mask.mapBlocks; block += kWarp) {
    const BlockBounds bounds = ReadBlockBounds<kMapBlock>(p.mask, head, block);
    const int c0 = block * kMapBlock;
    const int c1 = min(c0 + kMapBlock, s.Sk);
    if (Classify(bounds, p.mask.causal, r0, r1, c0, c1, false, s.Sk - s.Sq) == kEmpty) continue;
    firstColumn = min(firstColumn, c0);
    endColumn = c1;
  }
  firstColumn = __reduce_min_sync(~0u, firstColumn);
  endColumn = __reduce_max_sync(~0u, endColumn);
  if (threadIdx.x % kWarp == 0) {
    tiles.ranges[head * tiles.blocks + queryBlock] = {firstColumn / tiles.blockK,
                                                      (endColumn + tiles.blockK - 1) / tiles.blockK};
  }
}

// The bounds of the columns from c0 on, `size` of them.
__device__ inline BlockBounds ReadBounds(const Mask& mask, int64_t head, int c0, int size) {
  BlockBounds all = ReadBlockBounds<kMapBlock>(mask, head, c0 / kMapBlock);
  for (int block = c0 / kMapBlock + 1; block < min((c0 + size) / kMapBlock, mask.mapBlocks); ++block) {
    const BlockBounds next = ReadBlockBounds<kMapBlock>(mask, head, block);
    all = {min(all.ltsMin, next.ltsMin), max(all.ltsMax, next.ltsMax), min(all.lteMin, next.lteMin),
           max(all.lteMax, next.lteMax), min(all.utsMin, next.utsMin), max(all.utsMax, next.utsMax),
           min(all.uteMin, next.uteMin), max(all.uteMax, next.uteMax)};
  }
  return all;
}

// Live tiles of a row block, as wide as high. Those of other widths are in proportion.
__device__ inline int CountOfRows(const PlanParams& p, int64_t head, int block, int size) {
  const Sizes& s = p.sizes;
  const int r0 = block * size;
  const int r1 = min(r0 + size, s.Sq);
  int live = 0;
  for (int c0 = threadIdx.x % kWarp * size; c0 < s.Sk; c0 += kWarp * size) {
    const BlockBounds bounds = ReadBounds(p.mask, head, c0, size);
    live += Classify(bounds, p.mask.causal, r0, r1, c0, min(c0 + size, s.Sk), false, s.Sk - s.Sq) != kEmpty;
  }
  return live;
}

// Live tiles of a key block, over all mask heads of a key head.
__device__ inline int CountOfKeys(const PlanParams& p, int64_t keyHead, int block, int size) {
  const Sizes& s = p.sizes;
  const int group = p.mask.Hm / p.plan.keyHeads;
  const int c0 = block * size;
  const int c1 = min(c0 + size, s.Sk);
  int live = 0;
  for (int64_t head = keyHead * group; head < (keyHead + 1) * group; ++head) {
    const BlockBounds bounds = ReadBounds(p.mask, head, c0, size);
    for (int r0 = threadIdx.x % kWarp * kCountedRows; r0 < s.Sq; r0 += kWarp * kCountedRows) {
      const int r1 = min(r0 + kCountedRows, s.Sq);
      live += Classify(bounds, p.mask.causal, r0, r1, c0, c1, false, s.Sk - s.Sq) != kEmpty;
    }
  }
  return live;
}

__device__ inline void StoreCount(const WorkOrder& work, int64_t head, int block, int live) {
  live = __reduce_add_sync(~0u, live);
  if (threadIdx.x % kWarp == 0) work.tiles[head * work.blocks + block] = live;
}

// One warp for each row, range and block of one (batch, head) of the mask, blockIdx.y.
template <int kThreads>
__global__ void PlanKernel(const __grid_constant__ PlanParams p) {
  const int64_t head = blockIdx.y;
  int own = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (own < p.sizes.Sq) return FindSeeing(p, head, own);
  own -= p.sizes.Sq;
  for (const TileRanges& tiles : p.plan.ranges) {
    if (own < tiles.blocks) return FindRange(p, tiles, head, own);
    own -= tiles.blocks;
  }
  for (const WorkOrder& rows : p.plan.rows) {
    if (own < rows.blocks) return StoreCount(rows, head, own, CountOfRows(p, head, own, rows.size));
    own -= rows.blocks;
  }
  if (head >= p.mask.maskB * p.plan.keyHeads) return;
  for (const WorkOrder& keys : p.plan.keys) {
    if (own < keys.blocks) return StoreCount(keys, head, own, CountOfKeys(p, head, own, keys.size));
    own -= keys.blocks;
  }
}

// The place of a block is the number of blocks before it: those with more live tiles, or as many and a lower number.
__device__ inline void FindPlace(const WorkOrder& work, int64_t head, int block) {
  const int* tiles = work.tiles + head * work.blocks;
  const int own = tiles[block];
  int before = 0;
  for (int other = threadIdx.x % kWarp; other < work.blocks; other += kWarp) {
    before += tiles[other] > own || (tiles[other] == own && other < block);
  }
  before = __reduce_add_sync(~0u, before);
  if (threadIdx.x % kWarp == 0) work.order[head * work.blocks + before] = block;
}

// One warp for each block of one (batch, head) of the mask, blockIdx.y.
template <int kThreads>
__global__ void OrderKernel(const __grid_constant__ PlanParams p) {
  const int64_t head = blockIdx.y;
  int own = blockIdx.x * (kThreads / kWarp) + threadIdx.x / kWarp;
  for (const WorkOrder& rows : p.plan.rows) {
    if (own < rows.blocks) return FindPlace(rows, head, own);
    own -= rows.blocks;
  }
  if (head >= p.mask.maskB * p.plan.keyHeads) return;
  for (const WorkOrder& keys : p.plan.keys) {
    if (own < keys.blocks) return FindPlace(keys, head, own);
    own -= keys.blocks;
  }
}

}  // namespace flashmask::cuda
