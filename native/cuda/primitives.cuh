// What the kernels share: 16-bit numbers, swizzled tiles in shared memory, and products of tiles.
#pragma once

#include <type_traits>

#include "instructions.cuh"

namespace flashmask::cuda {

constexpr int kWarp = 32;
constexpr float kInfinity = __builtin_huge_valf();
constexpr float kNaN = __builtin_nanf("");
constexpr float kLn2 = 0.6931471805599453f;

template <class T>
__device__ float2 Unpack(uint32_t packed);

template <>
__device__ inline float2 Unpack<__half>(uint32_t packed) {
  return __half22float2(*reinterpret_cast<__half2*>(&packed));
}

template <>
__device__ inline float2 Unpack<__nv_bfloat16>(uint32_t packed) {
  return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&packed));
}

// Splits two floats into kParts numbers of type T each, whose sum is the float: the rounded value, then the remainder.
template <class T, int kParts>
__device__ inline void Split(uint32_t (&parts)[kParts], float low, float high) {
  parts[0] = Pack<T>(low, high);
  if constexpr (kParts == 2) {
    const float2 rounded = Unpack<T>(parts[0]);
    parts[1] = Pack<T>(low - rounded.x, high - rounded.y);
  }
}

// A mask of ones for packed numbers that are finite.
template <class T>
__device__ inline uint32_t FiniteMask(uint32_t packed) {
  constexpr uint32_t kExponent = std::is_same<T, __half>::value ? 0x7c00 : 0x7f80;
  const uint32_t low = packed & kExponent;
  const uint32_t high = packed >> 16 & kExponent;
  return (low == kExponent ? 0 : 0xffffu) | (high == kExponent ? 0 : 0xffff0000u);
}

__device__ inline float WarpMax(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
  return x;
}

__device__ inline float WarpSum(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

// 2^exponent, kept within the normal floats.
__device__ inline float PowerOfTwo(int exponent) { return __int_as_float((min(max(exponent, -126), 126) + 127) << 23); }

// A tile of kRows rows in shared memory consists of pages of 64 channels. A row of a page is 128 bytes, that is eight
// chunks of 16 bytes. Chunk c of row r is at place c ^ (r & 7), so that the eight rows of one chunk, which ldmatrix
// reads at once, are in different banks.
constexpr int kPageRowBytes = 128;

template <int kRows>
__device__ inline uint32_t ChunkOffset(int row, int chunk) {
  return (chunk >> 3) * (kRows * kPageRowBytes) + row * kPageRowBytes + (((chunk & 7) ^ (row & 7)) << 4);
}

// The address at which a lane's ldmatrix begins for the 16 x 16 block (row16, column16), in units of 16. With
// `alongRows`, consecutive matrices go down the rows first (left operands, and transposed right operands); otherwise
// along the columns.
template <int kRows>
__device__ inline uint32_t LaneAddress(uint32_t tile, int row16, int column16, bool alongRows) {
  const int lane = threadIdx.x % kWarp;
  const int row = alongRows ? lane & 15 : (lane & 7) + ((lane >> 4) << 3);
  const int half = alongRows ? lane >> 4 : (lane >> 3) & 1;
  return tile + ChunkOffset<kRows>(row16 * 16 + row, column16 * 2 + half);
}

// The address of the block (row16, column16) further on. The swizzle is an exclusive or, so the step within a page is
// one too. column16 and the column of `address` must not share a bit within a page.
template <int kRows>
__device__ inline uint32_t BlockAddress(uint32_t address, int row16, int column16) {
  return (address ^ ((column16 & 3) << 5)) + (column16 >> 2) * (kRows * kPageRowBytes) + row16 * (16 * kPageRowBytes);
}

// Starts the copy of a tile of kRows x kChannels from rows that are `stride` elements apart. Rows and channels past the
// valid ones become zeros. The number of channels is a multiple of 8.
template <int kRows, int kChannels, int kThreads, class T>
__device__ inline void CopyTile(uint32_t tile, const T* global, int64_t stride, int rows, int channels) {
  constexpr int kChunks = kChannels / 8;
  constexpr int kStep = kThreads / kChunks;
  static_assert(kThreads % kChunks == 0 && kRows % kStep == 0, "each thread copies one chunk of as many rows");
  const int row = threadIdx.x / kChunks;
  const int chunk = threadIdx.x % kChunks;
  const T* from = global + row * stride + chunk * 8;
  const int64_t step = kStep * stride;
  const int validRows = chunk * 8 < channels ? rows - row : 0;
#pragma unroll
  for (int i = 0; i < kRows / kStep; ++i) {
    CopyAsync16(tile + ChunkOffset<kRows>(row + i * kStep, chunk), from, i * kStep < validRows);
    from += step;
  }
}

// c += a b for one step of 16 channels. With two parts per number these are the three products that matter.
template <class T, int kParts>
__device__ inline void MmaParts(float (&c)[4], const uint32_t (&a)[kParts][4], const uint32_t (&b)[kParts][4],
                                int which) {
  Mma<T>(c, a[0], b[0][2 * which], b[0][2 * which + 1]);
  if constexpr (kParts == 2) {
    Mma<T>(c, a[0], b[1][2 * which], b[1][2 * which + 1]);
    Mma<T>(c, a[1], b[0][2 * which], b[0][2 * which + 1]);
  }
}

// The layout of an operand of Product in shared memory.
template <int kRows_, bool kTransposed_, int kPartBytes_>
struct Operand {
  static constexpr int kRows = kRows_;
  static constexpr bool kTransposed = kTransposed_;  // rows are the channels that are summed over
  static constexpr int kPartBytes = kPartBytes_;     // from the high to the low 16-bit numbers

  // Loads block `outer` of the operand's own side and `inner` of the side that is summed over.
  __device__ static void Load(uint32_t (&r)[4], uint32_t address, int outer, int inner, int part) {
    LoadMatrix<kTransposed>(
        r, BlockAddress<kRows>(address, kTransposed ? inner : outer, kTransposed ? outer : inner) + part * kPartBytes);
  }
};

// acc[m][n] += left B over step k of 16.
template <class T, int kParts, class B, int kM, int kN>
__device__ inline void ProductStep(float (&acc)[kM][kN][4], const uint32_t (&left)[kM][kParts][4], uint32_t b, int k) {
#pragma unroll
  for (int n = 0; n < kN / 2; ++n) {
    uint32_t right[kParts][4];
#pragma unroll
    for (int part = 0; part < kParts; ++part) B::Load(right[part], b, n, k, part);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      MmaParts<T, kParts>(acc[m][2 * n], left[m], right, 0);
      MmaParts<T, kParts>(acc[m][2 * n + 1], left[m], right, 1);
    }
  }
}

// acc[m][n] += A B over kSteps of 16: A of kM blocks of 16, B of kN blocks of 8, both in shared memory.
template <class T, int kParts, class A, class B, int kSteps, int kM, int kN>
__device__ inline void Product(float (&acc)[kM][kN][4], uint32_t a, uint32_t b) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    uint32_t left[kM][kParts][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int part = 0; part < kParts; ++part) A::Load(left[m][part], a, m, k, part);
    }
    ProductStep<T, kParts, B>(acc, left, b, k);
  }
}

// acc[m][n] += W B, where W are accumulators of an earlier product, with kSteps * 2 blocks of 8 columns: their
// registers already have the layout of a left operand.
template <class T, int kParts, class B, int kSteps, int kM, int kN>
__device__ inline void ProductFromRegisters(float (&acc)[kM][kN][4], const float (&w)[kM][kSteps * 2][4], uint32_t b) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    uint32_t left[kM][kParts][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float (&block)[4] = w[m][2 * k + i / 2];
        uint32_t parts[kParts];
        Split<T, kParts>(parts, block[2 * (i % 2)], block[2 * (i % 2) + 1]);
#pragma unroll
        for (int part = 0; part < kParts; ++part) left[m][part][i] = parts[part];
      }
    }
    ProductStep<T, kParts, B>(acc, left, b, k);
  }
}

template <int kM, int kN>
__device__ inline void Clear(float (&acc)[kM][kN][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[m][n][i] = 0;
    }
  }
}

// acc += the product that `product` adds to zeros. Tensor cores truncate when they add, so long sums of split floats
// are rounded here, tile by tile; sums of 16-bit numbers stay in place.
template <int kParts, int kM, int kN, class AddProduct>
__device__ inline void Accumulate(float (&acc)[kM][kN][4], AddProduct product) {
  if constexpr (kParts == 1) {
    product(acc);
  } else {
    float tile[kM][kN][4];
    Clear(tile);
    product(tile);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[m][n][i] += tile[m][n][i];
      }
    }
  }
}

// The row and the column of accumulator element i of block (m, n), counted from the warp's first row and column.
__device__ inline int ElementRow(int m, int i) { return m * 16 + (threadIdx.x % kWarp) / 4 + (i / 2) * 8; }
__device__ inline int ElementColumn(int n, int i) { return n * 8 + (threadIdx.x % 4) * 2 + i % 2; }

}  // namespace flashmask::cuda
