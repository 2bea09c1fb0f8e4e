// Dropout by Philox4x32-10 (Salmon et al. 2011), a counter-based generator. TWIN: src/call/dropout.ts
#pragma once

#include "params.h"
#include "primitives.cuh"

namespace flashmask::cuda {

__device__ inline uint4 Philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t k0, uint32_t k1) {
  uint32_t c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(0xd2511f53u) * c0;
    const uint64_t product1 = static_cast<uint64_t>(0xcd9e8d57u) * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return {c0, c1, c2, c3};
}

// Which of the four elements of a block (given by the row and column of element 0) are kept: bit i is element i's. One
// Philox counter serves four columns of one row, which two neighbouring lanes share: the even lane draws for the upper
// row, the odd lane for the lower row.
__device__ inline uint32_t KeptElements(const Dropout& d, int batchHead, int row, int column) {
  const bool odd = threadIdx.x & 1;
  const uint4 own = Philox(static_cast<uint32_t>(column) >> 2, row + (odd ? 8 : 0), batchHead, d.key0, d.key1);
  const uint32_t bits =
      (own.x >= d.threshold) | (own.y >= d.threshold) << 1 | (own.z >= d.threshold) << 2 | (own.w >= d.threshold) << 3;
  const uint32_t other = __shfl_xor_sync(~0u, bits, 1);
  const uint32_t upper = odd ? other : bits;
  const uint32_t lower = odd ? bits : other;
  const int shift = odd ? 2 : 0;
  return (upper >> shift & 3) | (lower >> shift & 3) << 2;
}

}  // namespace flashmask::cuda
