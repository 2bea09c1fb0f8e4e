// Which tiles of the mask are live, and which pairs of a partial one are hidden.
// TWIN: src/mask/bounds/classify.ts
#pragma once

#include "params.h"
#include "primitives.cuh"

namespace flashmask::cuda {

// The kind of a tile: empty, or live with the other bits for what hides pairs; kLive alone means full.
using TileKind = uint32_t;
constexpr TileKind kEmpty = 0;
constexpr TileKind kLive = 1;
constexpr TileKind kHidesEdge = 2;   // the causal triangle, or columns past the end
constexpr TileKind kHidesLower = 4;  // lower intervals
constexpr TileKind kHidesUpper = 8;  // upper intervals

// The smallest and largest bounds of some key columns.
struct BlockBounds {
  int ltsMin, ltsMax, lteMin, lteMax, utsMin, utsMax, uteMin, uteMax;
};

// The head of the bounds that query head h of batch b reads, counted over batches. TWIN: src/call/problem.ts
__device__ inline int64_t MaskHeadOf(const Mask& mask, int b, int h, int H) {
  return static_cast<int64_t>(mask.maskB == 1 ? 0 : b) * mask.Hm + h / (H / mask.Hm);
}

// The bounds of kBlockK key columns, combined from those of each kMapBlock columns. `index` is the (batch, head) of the
// mask.
template <int kBlockK>
__device__ inline BlockBounds ReadBlockBounds(const Mask& mask, int64_t index, int keyBlock) {
  if (mask.spans == nullptr) return {0, 0, 0, 0, 0, 0, 0, 0};
  constexpr int kBlocks = kBlockK / kMapBlock;
  const int4* blocks = mask.boundsMap + index * mask.mapBlocks * 2;
  const int first = keyBlock * kBlocks;
  const int4 lower = __ldg(&blocks[first * 2]);
  const int4 upper = __ldg(&blocks[first * 2 + 1]);
  BlockBounds all = {lower.x, lower.y, lower.z, lower.w, upper.x, upper.y, upper.z, upper.w};
#pragma unroll
  for (int i = 1; i < kBlocks; ++i) {
    const int at = min(first + i, mask.mapBlocks - 1);
    const int4 lt = __ldg(&blocks[at * 2]);
    const int4 ut = __ldg(&blocks[at * 2 + 1]);
    all = {min(all.ltsMin, lt.x), max(all.ltsMax, lt.y), min(all.lteMin, lt.z), max(all.lteMax, lt.w),
           min(all.utsMin, ut.x), max(all.utsMax, ut.y), min(all.uteMin, ut.z), max(all.uteMax, ut.w)};
  }
  return all;
}

// The first row from `row` on that the spans of a column do not mask.
__device__ inline int FirstUnmasked(const int4& spans, int row) {
  const auto leave = [&](uint32_t start, uint32_t length) {
    // One comparison tests both ends: a row before the start wraps around to a large number.
    if (row - start < length) row = static_cast<int>(start + length);
  };
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    leave(spans.x, spans.y);
    leave(spans.z, spans.w);
  }
  return row;
}

// The first row from `row` on that sees a key, by the mask's (batch, head) `index`; Sq or more if none does.
__device__ inline int FirstSeeing(const Mask& mask, int64_t index, const Sizes& s, int column, int row) {
  if (mask.causal) row = max(row, column - (s.Sk - s.Sq));
  return mask.spans == nullptr ? row : FirstUnmasked(__ldg(&mask.spans[index * s.Sk + column]), row);
}

__device__ inline bool Sees(const Mask& mask, int64_t index, const Sizes& s, int row, int column) {
  return FirstSeeing(mask, index, s, column, row) == row;
}

__device__ inline bool SeesKeys(const Mask& mask, int64_t index, const Sizes& s, int row) {
  if (mask.seeing != nullptr) return mask.seeing[index * s.Sq + row] != 0;
  return !mask.causal || row + s.Sk - s.Sq >= 0;
}

// Whether no interval from the smallest start to the largest end has a row in [r0, r1).
__device__ inline bool Misses(int startMin, int endMax, int r0, int r1) {
  return r1 <= startMin || r0 >= endMax || startMin >= endMax;
}

// The kind of the tile of rows [r0, r1) and columns [c0, c1), both within the problem. `edge` is true if the tile has
// more columns than these.
__device__ inline TileKind Classify(const BlockBounds& bounds, bool causal, int r0, int r1, int c0, int c1, bool edge,
                                    int offset) {
  int reached = causal ? max(r0, c0 - offset) : r0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (bounds.ltsMax <= reached) reached = max(reached, bounds.lteMin);
    if (bounds.utsMax <= reached) reached = max(reached, bounds.uteMin);
  }
  if (reached >= r1) return kEmpty;
  const bool belowTriangle = !causal || r0 >= c1 - 1 - offset;
  return kLive | (belowTriangle && !edge ? 0 : kHidesEdge) |
         (Misses(bounds.ltsMin, bounds.lteMax, r0, r1) ? 0 : kHidesLower) |
         (Misses(bounds.utsMin, bounds.uteMax, r0, r1) ? 0 : kHidesUpper);
}

// Walks over the live blocks in [begin, end). Lanes classify 32 blocks at a time; all warps get the same results.
struct LiveBlocks {
  int base;  // the first of the 32 blocks of the bits
  int end;
  uint32_t live = 0;
  uint32_t full = 0;
  TileKind own = kEmpty;  // of this lane's block

  __device__ LiveBlocks(int begin, int end) : base(begin - kWarp), end(end) {}

  // The next live block, or -1. `classify(block)` gives a block's kind.
  template <class ClassifyBlock>
  __device__ int Next(bool* partial, ClassifyBlock classify) {
    while (live == 0) {
      base += kWarp;
      if (base >= end) return -1;
      const int block = base + static_cast<int>(threadIdx.x % kWarp);
      own = block < end ? classify(block) : kEmpty;
      live = __ballot_sync(~0u, own != kEmpty);
      full = __ballot_sync(~0u, own == kLive);
    }
    const int bit = __ffs(live) - 1;
    live &= live - 1;
    *partial = (full >> bit & 1) == 0;
    return base + bit;
  }

  // The kind of the block that Next() gave last.
  __device__ TileKind Kind(int block) const { return __shfl_sync(~0u, own, block - base); }
};

// Sets scores to `hidden` where hides(row, column state) is true. Rows count from row0; `stateOf(column)` is called
// once per column.
template <int kM, int kN, class StateOf, class Hides>
__device__ inline void HideWhere(float (&scores)[kM][kN][4], float hidden, int row0, StateOf stateOf, Hides hides) {
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const auto state = stateOf(ElementColumn(n, e));
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (hides(row0 + ElementRow(m, 2 * half), state)) scores[m][n][2 * half + e] = hidden;
        }
      }
    }
  }
}

// Sets the masked scores of a warp's part of a tile to `hidden`. The part begins at row row0 of the problem and at
// column column0 of the tile; the tile begins at column tileColumn0. `spans` are the tile's spans in shared memory.
template <int kM, int kN>
__device__ inline void HideMasked(float (&scores)[kM][kN][4], TileKind kind, const int4* spans, bool causal, int row0,
                                  int column0, int tileColumn0, int Sq, int Sk, float hidden = -kInfinity) {
  if (kind & kHidesEdge) {
    const auto firstRow = [&](int column) {
      column += tileColumn0 + column0;
      return column >= Sk ? 0x7fffffff : causal ? column - (Sk - Sq) : -0x7fffffff;
    };
    HideWhere(scores, hidden, row0, firstRow, [](int row, int first) { return row < first; });
  }
  const auto within = [](int row, int2 span) {
    return static_cast<uint32_t>(row - span.x) < static_cast<uint32_t>(span.y);
  };
  const int2* tileSpans = reinterpret_cast<const int2*>(spans + column0);
  if (kind & kHidesLower) HideWhere(scores, hidden, row0, [&](int column) { return tileSpans[2 * column]; }, within);
  if (kind & kHidesUpper)
    HideWhere(scores, hidden, row0, [&](int column) { return tileSpans[2 * column + 1]; }, within);
}

// Starts the copy of a tile's spans to shared memory.
template <int kBlockK, int kThreads>
__device__ inline void CopySpans(uint32_t shared, const Mask& mask, int64_t index, int column0, int Sk) {
  if (mask.spans == nullptr) return;
  for (int i = threadIdx.x; i < kBlockK; i += kThreads) {
    const bool valid = column0 + i < Sk;
    const int4* span = mask.spans + index * Sk + (valid ? column0 + i : 0);
    CopyAsync16(shared + i * sizeof(int4), span, valid);
  }
}

}  // namespace flashmask::cuda
