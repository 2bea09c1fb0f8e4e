// Stores the output of Hopper's forward kernels through shared memory. The copy engine writes it to memory while the
// warpgroup is at its next row block.
#pragma once

#include "forward.cuh"
#include "hopper_forward_tile.cuh"

namespace flashmask::cuda {

// The copy engine writes rows whose bytes are a multiple of 16.
__host__ __device__ inline bool IsStoredInBoxes(const Tensor32& out) { return out.channels % 4 == 0; }

// Stores the statistics of a lane's rows, and gives the factors of their output: as StoreOutput() does.
__device__ inline void FinishRows(float (&factors)[2], const ForwardParams& p, const RowBlock& at, int warpRow,
                                  const RowStats<1>& stats) {
  const float unit = PowerOfTwo(ExponentOf<1>(p.vFacts, at.keyBatchHead)) * p.dropout.keepScale;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = at.r0 + warpRow + ElementRow(0, 2 * half);
    float sum = QuadSum(stats.sum[0][half]);
    factors[half] = 0;
    if (row >= at.r1) continue;
    if (sum == 0 && SeesKeys(p.mask, at.maskHead, p.sizes, row)) sum = kNaN;
    factors[half] = sum == 0 ? 0.f : unit / sum;
    if (threadIdx.x % 4 != 0) continue;
    const int64_t index = static_cast<int64_t>(at.batchHead) * p.sizes.Sq + row;
    const float reference = FiniteReference(stats.reference[0][half]);
    p.lse[index] = sum == 0 ? -kInfinity : (reference + log2f(sum)) * kLn2;
    p.rowStats[index] = {reference, sum};
  }
}

// Writes 32 channels of a warp's rows, which begin at row `row0` of the box, to a box in shared memory. Odd rows store
// blocks n and n ^ 2 the other way around. Otherwise the swizzle puts rows 2 r and 2 r + 1 into the same banks.
__device__ inline void WriteBox(uint32_t box, int row0, const float (*out)[4], const float (&factors)[2]) {
  const bool odd = threadIdx.x / 4 % 2 == 1;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + ElementRow(0, 2 * half);
      const int channel = ElementColumn(n, 0);
      const uint32_t at =
          box + row * kPageRowBytes + (((channel / 4) ^ (row & 7) ^ (odd ? 4 : 0)) << 4) + channel % 4 * 4;
      const float x = odd ? out[n ^ 2][2 * half] : out[n][2 * half];
      const float y = odd ? out[n ^ 2][2 * half + 1] : out[n][2 * half + 1];
      StoreSharedPair(at, x * factors[half], y * factors[half]);
    }
  }
}

// Starts to store the output of a warpgroup, whose boxes in shared memory begin at `boxes`. All its threads call this,
// and wait at barrier `id`. One of them starts the copies, and must wait for them before the thread block ends.
template <class Tile>
__device__ inline void StoreBoxes(const CUtensorMap* map, uint32_t boxes, int id, const RowBlock& at, int warpRow,
                                  const float (&out)[Tile::kDv / 8][4], const float (&factors)[2]) {
  const bool copies = threadIdx.x % kWarpgroup == 0;
  const int row0 = warpRow % 64;
#pragma unroll
  for (int i = 0; i < Tile::kDv / 32; ++i) {
    const uint32_t box = boxes + i % Tile::kStoreBoxes * Tile::kStoreBoxBytes;
    if (i == 0 || i >= Tile::kStoreBoxes) {
      // Until the box may be written again.
      if (copies) i == 0 ? WaitBulkRead<0>() : WaitBulkRead<Tile::kStoreBoxes - 1>();
      SyncThreads<kWarpgroup>(id);
    }
    WriteBox(box, row0, &out[4 * i], factors);
    FenceAsync();
    SyncThreads<kWarpgroup>(id);
    if (copies) {
      StoreBox(map, box, i * 32, at.r0 + warpRow - row0, at.h, at.b);
      CommitBulk();
    }
  }
}

}  // namespace flashmask::cuda
