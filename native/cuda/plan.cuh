// The kernels that make the plan of a mask, after the one of bounds_map.cuh: the rows that see a key, and the ranges
// of live tiles.
#pragma once

#include "mask.cuh"
#include "plan.h"

namespace flashmask::cuda {

struct PlanParams {
  Mask mask;
  Sizes sizes;  // the lengths
  Plan plan;
};

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

// One warp for each row and each range of one (batch, head) of the mask, blockIdx.y.
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
}

}  // namespace flashmask::cuda
