// Moves accumulators to memory: as tiles of 16-bit numbers in shared memory, as rows of float32 tensors, and as sums of
// rows.
#pragma once

#include "params.h"
#include "primitives.cuh"

namespace flashmask::cuda {

// Rounds a warp's part of a tile to T and stores it to shared memory.
template <class T, int kParts, int kRows, int kPartBytes, int kM, int kN>
__device__ inline void StoreTile(uint32_t tile, const float (&x)[kM][kN][4], int row0, int column0) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row0 + ElementRow(m, 2 * half);
        const uint32_t at = tile + ChunkOffset<kRows>(row, column0 / 8 + n) + threadIdx.x % 4 * 4;
        uint32_t parts[kParts];
        Split<T, kParts>(parts, x[m][n][2 * half], x[m][n][2 * half + 1]);
#pragma unroll
        for (int part = 0; part < kParts; ++part) StoreShared(at + part * kPartBytes, parts[part]);
      }
    }
  }
}

// Two neighbouring channels of a row.
__device__ inline void StorePair(float* row, int channel, int channels, float x, float y) {
  if (channels % 2 == 0) {
    if (channel < channels) *reinterpret_cast<float2*>(row + channel) = {x, y};
    return;
  }
  if (channel < channels) row[channel] = x;
  if (channel + 1 < channels) row[channel + 1] = y;
}

// Adds a warp's part of dq to memory. A part within the tensor takes no branches, which would keep the compiler from
// mixing this with products.
template <int kM, int kN>
__device__ inline void AddRows(float* head, const Tensor32& to, const float (&x)[kM][kN][4], float factor, int row0,
                               int channel0, int rows) {
  const bool whole = to.channels % 2 == 0 && channel0 + kN * 8 <= to.channels && row0 + kM * 16 <= rows;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + ElementRow(m, 2 * half);
      const int channel = channel0 + ElementColumn(0, 0);
      float* at = head + row * to.row + channel;
      if (whole) {
#pragma unroll
        for (int n = 0; n < kN; ++n) AddPair(at + n * 8, x[m][n][2 * half] * factor, x[m][n][2 * half + 1] * factor);
      } else if (row < rows) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
          if (channel + n * 8 < to.channels) atomicAdd(at + n * 8, x[m][n][2 * half] * factor);
          if (channel + n * 8 + 1 < to.channels) atomicAdd(at + n * 8 + 1, x[m][n][2 * half + 1] * factor);
        }
      }
    }
  }
}

// Writes a warp's part of dq to shared memory. AddBulkRow then adds it to memory by the bulk-copy engine, whole rows at
// a time.
template <int kRowBytes, int kM, int kN>
__device__ inline void StageRows(uint32_t tile, const float (&x)[kM][kN][4], float factor, int row0, int channel0) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t row = tile + (row0 + ElementRow(m, 2 * half)) * kRowBytes + (channel0 + ElementColumn(0, 0)) * 4;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        StoreSharedPair(row + n * 32, x[m][n][2 * half] * factor, x[m][n][2 * half + 1] * factor);
      }
    }
  }
  FenceAsync();
}

// Stores a warp's part of dk or dv.
template <int kM, int kN>
__device__ inline void StoreRows(float* head, const Tensor32& to, const float (&x)[kM][kN][4], float factor, int row0,
                                 int channel0, int rows) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + ElementRow(m, 2 * half);
      if (row >= rows) continue;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        StorePair(head + row * to.row, channel0 + ElementColumn(n, 0), to.channels, x[m][n][2 * half] * factor,
                  x[m][n][2 * half + 1] * factor);
      }
    }
  }
}

// The same from channel 0 on, four channels at a time: lanes exchange the pairs of two blocks and have half of one
// block each. The addresses of fours must be aligned.
template <int kN>
__device__ inline void StoreRowsByFours(float* head, const Tensor32& to, const float (&x)[kN][4], float factor,
                                        int row0, int rows) {
  const bool odd = threadIdx.x % 2 == 1;
#pragma unroll
  for (int n = 0; n < kN; n += 2) {
    const int channel = (n + odd) * 8 + threadIdx.x % 4 / 2 * 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + ElementRow(0, 2 * half);
      const float2 even = {x[n][2 * half] * factor, x[n][2 * half + 1] * factor};
      const float2 other = {x[n + 1][2 * half] * factor, x[n + 1][2 * half + 1] * factor};
      const float2 taken = {__shfl_xor_sync(~0u, odd ? even.x : other.x, 1),
                            __shfl_xor_sync(~0u, odd ? even.y : other.y, 1)};
      if (row < rows && channel < to.channels) {
        *reinterpret_cast<float4*>(head + row * to.row + channel) =
            odd ? float4{taken.x, taken.y, other.x, other.y} : float4{even.x, even.y, taken.x, taken.y};
      }
    }
  }
}

// Stores all channels of a warp's part of dk or dv, in the way that their addresses allow.
template <int kN>
__device__ inline void StoreAllChannels(float* head, const Tensor32& to, const float (&x)[1][kN][4], float factor,
                                        int row0, int rows) {
  if (to.channels % 4 == 0 && to.row % 4 == 0 && reinterpret_cast<uintptr_t>(head) % 16 == 0) {
    StoreRowsByFours(head, to, x[0], factor, row0, rows);
  } else {
    StoreRows(head, to, x, factor, row0, 0, rows);
  }
}

}  // namespace flashmask::cuda
