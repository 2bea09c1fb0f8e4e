// Products of split floats on Hopper: each operand has two 16-bit numbers a float, a tile of high ones and behind it a
// tile of low ones. Three of the four products matter.
#pragma once

#include "hopper.cuh"

namespace flashmask::cuda {

// Issues acc = A B^T as IssueTransposed does. The order of additions is that of Product (primitives.cuh), so that the
// backward kernels get the same scores, to the bit.
template <class T, int kD, int kRowsA, int kRowsB, int kN>
__device__ inline void IssueSplitTransposed(float (&acc)[kN][4], uint32_t a, uint32_t b) {
  const Descriptor left = Descriptor::OfRows(a);
  const Descriptor right = Descriptor::OfRows(b);
  Pin(acc);
  FenceProducts();
#pragma unroll
  for (int k = 0; k < kD / 16; ++k) {
    const int leftHigh = k / 4 * (kRowsA * kPageRowBytes) + k % 4 * 32;
    const int rightHigh = k / 4 * (kRowsB * kPageRowBytes) + k % 4 * 32;
    const int leftLow = leftHigh + kTileBytes<kRowsA, kD>;
    const int rightLow = rightHigh + kTileBytes<kRowsB, kD>;
    Product16<false>(acc, left.At(leftHigh), right.At(rightHigh), k != 0, T());
    Product16<false>(acc, left.At(leftHigh), right.At(rightLow), true, T());
    Product16<false>(acc, left.At(leftLow), right.At(rightHigh), true, T());
  }
  CommitProducts();
}

// Issues acc = W B, summed over kSteps times 16 rows of B, a tile of kRowsB rows and kN times 8 channels. What is small
// is added first, because tensor cores truncate sums.
template <class T, int kRowsB, int kSteps, int kN>
__device__ inline void IssueSplitFromRegisters(float (&acc)[kN][4], const uint32_t (&left)[2][kSteps][4], uint32_t b) {
  const Descriptor right = Descriptor::OfColumns<kRowsB * kPageRowBytes>(b);
  constexpr int kLow = kTileBytes<kRowsB, kN * 8>;
  constexpr int kStep = 16 * kPageRowBytes;
  Pin(acc);
  FenceProducts();
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    Product16<true>(acc, left[1][k], right.At(k * kStep), k != 0, T());
    Product16<true>(acc, left[0][k], right.At(k * kStep + kLow), true, T());
  }
#pragma unroll
  for (int k = 0; k < kSteps; ++k) Product16<true>(acc, left[0][k], right.At(k * kStep), true, T());
  CommitProducts();
}

}  // namespace flashmask::cuda
