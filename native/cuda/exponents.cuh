// The powers of two that keep float32 tensors within the range of half precision. A tensor is divided by one power per
// batch and key head; for q and dO that covers all query heads of the key head. The power follows from the largest
// magnitude, so all kernels compute the same one.
#pragma once

#include "params.h"
#include "primitives.cuh"

namespace flashmask::cuda {

// The largest number of a scaled tensor lies in [2^kTop, 2^(kTop + 1)). Then products of 256 channels stay finite, and
// numbers down to 2^-22 of the largest are normal.
constexpr int kTop = 8;

// Tensors with one 16-bit number per float whose largest magnitude lies in [2^kLeast, 2^kMost] are rounded unscaled,
// which saves a second pass over them.
constexpr int kLeast = -2;
constexpr int kMost = 10;

// floor(log2(magnitude)); a very small number for 0.
__device__ inline int Log2Of(uint32_t magnitudeBits) {
  return magnitudeBits == 0 ? -200 : static_cast<int>(magnitudeBits >> 23) - 127;
}

template <int kParts>
__device__ inline int ExponentOf(uint32_t magnitudeBits) {
  const int log2 = Log2Of(magnitudeBits);
  const bool asItIs = kParts == 1 && log2 >= kLeast && log2 <= kMost;
  return magnitudeBits == 0 || asItIs ? 0 : log2 - kTop;
}

template <int kParts>
__device__ inline int ExponentOf(const Facts& facts, int keyBatchHead) {
  return facts.magnitudes == nullptr ? 0 : ExponentOf<kParts>(__ldg(&facts.magnitudes[keyBatchHead]));
}

// The exponent of a unit in which no gradient of a score, p (dO·v - rowShift), exceeds 2^15.
__device__ inline int GradientExponent(const BackwardParams& p, int keyBatchHead) {
  if (p.dOutFacts.magnitudes == nullptr) return 0;
  const int products = Log2Of(p.dOutFacts.magnitudes[keyBatchHead]) + Log2Of(p.vFacts.magnitudes[keyBatchHead]) + 2 +
                       static_cast<int>(ceilf(log2f(p.v.channels * p.dropout.keepScale)));
  const int shifts = Log2Of(p.rowFacts.magnitudes[keyBatchHead]) + 1;
  return min(max(max(products, shifts) + 1 - 15, -100), 100);
}

// The factor that turns products of q and k, divided by 2^exponent, into scores in powers of two. Never 0 or infinite,
// because masked scores are infinite.
__device__ inline float ScaleOfScores(const Scale& scale, int exponent) {
  constexpr float kTiny = 1e-37f;
  return fmaxf(scale.factor * PowerOfTwo(scale.exponent + exponent), kTiny);
}

// The backward kernels multiply weights by 2^shift before they round them to T, so that small weights are normal
// numbers.
template <class T>
constexpr int kBackwardWeightShift = 0;
template <>
inline constexpr int kBackwardWeightShift<__half> = 14;

}  // namespace flashmask::cuda
