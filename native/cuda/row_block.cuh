// The block of queries of one head that a forward or dq kernel works on, and the key blocks that it sees.
#pragma once

#include "mask.cuh"
#include "params.h"
#include "tiles.h"

namespace flashmask::cuda {

struct BlockOfHead {
  int block, batchHead;
};

// The block and head of a thread block: either head by head, or with kHeadsInTurn heads taking turns.
__device__ inline BlockOfHead BlockOfHeadAt(int index, int blocks, int batchHeads, bool inTurn,
                                            int headsInTurn = kHeadsInTurn) {
  if (!inTurn) return {index % blocks, index / blocks};
  const int first = index / (blocks * headsInTurn) * headsInTurn;
  const int heads = min(headsInTurn, batchHeads - first);
  const int rest = index - first * blocks;
  return {rest / heads, first + rest % heads};
}

struct RowBlock {
  int b, h, keyHead;
  int batchHead, keyBatchHead;
  int queryBlock, queryBlocks;
  int r0, r1;  // rows [r0, r1)
  int64_t maskHead;
};

// The row block number `index` of a call, head by head or with heads in turn. Under a causal mask later rows come
// first: they have the most work, and the blocks that run last should have little.
template <int kBlockQ>
__device__ inline RowBlock RowBlockAt(int index, const Sizes& s, const Mask& mask, bool inTurn) {
  RowBlock at;
  at.queryBlocks = (s.Sq + kBlockQ - 1) / kBlockQ;
  const BlockOfHead place = BlockOfHeadAt(index, at.queryBlocks, s.B * s.H, inTurn);
  at.queryBlock = mask.causal ? at.queryBlocks - 1 - place.block : place.block;
  at.batchHead = place.batchHead;
  at.b = at.batchHead / s.H;
  at.h = at.batchHead % s.H;
  at.keyHead = at.h / (s.H / s.Hkv);
  at.keyBatchHead = at.b * s.Hkv + at.keyHead;
  at.r0 = at.queryBlock * kBlockQ;
  at.r1 = min(at.r0 + kBlockQ, s.Sq);
  at.maskHead = MaskHeadOf(mask, at.b, at.h, s.H);
  return at;
}

template <int kBlockK>
__device__ inline TileKind ClassifyKeyBlock(const RowBlock& at, const Sizes& s, const Mask& mask, int block) {
  const int c0 = block * kBlockK;
  return Classify(ReadBlockBounds<kBlockK>(mask, at.maskHead, block), mask.causal, at.r0, at.r1, c0,
                  min(c0 + kBlockK, s.Sk), c0 + kBlockK > s.Sk, s.Sk - s.Sq);
}

// The key blocks that may be live: those of the ranges kernel, or all up to the causal triangle.
template <int kBlockK>
__device__ inline LiveBlocks LiveKeyBlocks(const RowBlock& at, const Sizes& s, const Mask& mask, const int2* ranges) {
  if (ranges != nullptr) {
    const int2 range = ranges[at.maskHead * at.queryBlocks + at.queryBlock];
    return LiveBlocks(range.x, range.y);
  }
  const int columns = mask.causal ? min(max(at.r1 + s.Sk - s.Sq, 0), s.Sk) : s.Sk;
  return LiveBlocks(0, (columns + kBlockK - 1) / kBlockK);
}

// Starts the copy of all kParts parts of a tile.
template <int kParts, int kRows, int kD, int kThreads, class T>
__device__ inline void CopyParts(uint32_t to, const T* from, const Tensor16& tensor, int rows) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    CopyTile<kRows, kD, kThreads>(to + part * kTileBytes<kRows, kD>, from + part * tensor.part, tensor.row, rows,
                                  tensor.channels);
  }
}

}  // namespace flashmask::cuda
