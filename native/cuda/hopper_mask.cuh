// Pairs that a partial tile hides, as bits. Hopper's kernels make them for intervals of rows, a word at a time, and
// bring them into the order of accumulators: then a score takes no comparison of its own.
#pragma once

#include "mask.cuh"

namespace flashmask::cuda {

// Rows from `first` on, as bits of a word of rows that begins at row0. Bounds may be any integers: nothing overflows.
__device__ inline uint32_t RowsFrom(int first, int row0) { return __funnelshift_lc(0u, ~0u, max(first, row0) - row0); }

// The rows of a span of a column.
__device__ inline uint32_t RowsOfSpan(int2 span, int row0) {
  const int end = static_cast<int>(static_cast<uint32_t>(span.x) + static_cast<uint32_t>(span.y));
  return RowsFrom(span.x, row0) & ~RowsFrom(end, row0);
}

}  // namespace flashmask::cuda
