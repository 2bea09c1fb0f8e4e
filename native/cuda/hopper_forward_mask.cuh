// What is hidden in a partial tile of Hopper's forward kernels.
#pragma once

#include "mask.cuh"

namespace flashmask::cuda {

// Hides columns past the causal triangle and past the end: those after the last one that a row may see. Columns of a
// lane are counted at compile time, so that each score takes one comparison.
template <int kN>
__device__ inline void HideEdge(float (&scores)[kN][4], bool causal, int row0, int tileColumn0, const Sizes& s) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int last = causal ? min(row0 + ElementRow(0, 2 * half) + s.Sk - s.Sq, s.Sk - 1) : s.Sk - 1;
    const int lastOfLane = last - tileColumn0 - ElementColumn(0, 0);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (n * 8 + e > lastOfLane) scores[n][2 * half + e] = -kInfinity;
      }
    }
  }
}

// Sets the masked scores of a warp's 16 rows, which begin at row row0, to minus infinity. `spans` are those of the
// tile's columns in shared memory.
template <int kN>
__device__ inline void HideMasked(float (&scores)[1][kN][4], TileKind kind, const int4* spans, bool causal, int row0,
                                  int tileColumn0, const Sizes& s) {
  if (kind & kHidesEdge) HideEdge(scores[0], causal, row0, tileColumn0, s);
  const auto within = [](int row, int2 span) {
    return static_cast<uint32_t>(row - span.x) < static_cast<uint32_t>(span.y);
  };
  const int2* halves = reinterpret_cast<const int2*>(spans);
  const auto lower = [&](int column) { return halves[2 * column]; };
  const auto upper = [&](int column) { return halves[2 * column + 1]; };
  if (kind & kHidesLower) HideWhere(scores, -kInfinity, row0, lower, within);
  if (kind & kHidesUpper) HideWhere(scores, -kInfinity, row0, upper, within);
}

}  // namespace flashmask::cuda
