// Gradients of scores, for the backward and dq kernels.
#pragma once

#include "dropout.cuh"
#include "exponents.cuh"
#include "params.h"
#include "primitives.cuh"

namespace flashmask::cuda {

// The factors of a batch and key head. With weights pS = p 2^shift, the gradients of scores are dS = pS (product
// gradient - rowShift offset), in units of 2^gradientExponent.
struct Factors {
  float scale2;  // of products of q and k
  float gradient;
  float offset;
  float dq, dk, dv;  // of the results
};

template <class T, int kParts>
__device__ inline Factors FactorsOf(const BackwardParams& p, int keyBatchHead) {
  constexpr int kShift = kBackwardWeightShift<T>;
  const int q = ExponentOf<kParts>(p.qFacts, keyBatchHead);
  const int k = ExponentOf<kParts>(p.kFacts, keyBatchHead);
  const int v = ExponentOf<kParts>(p.vFacts, keyBatchHead);
  const int dOut = ExponentOf<kParts>(p.dOutFacts, keyBatchHead);
  const int gradient = GradientExponent(p, keyBatchHead);
  Factors factors;
  factors.scale2 = ScaleOfScores(p.scoreScale, q + k);
  factors.offset = PowerOfTwo(-gradient - kShift);
  factors.gradient = p.dropout.keepScale * PowerOfTwo(dOut + v - gradient - kShift);
  factors.dq = p.scale.factor * PowerOfTwo(p.scale.exponent + gradient + k);
  factors.dk = kLn2 * p.scoreScale.factor * PowerOfTwo(p.scoreScale.exponent + gradient + q);
  factors.dv = p.dropout.keepScale * PowerOfTwo(dOut - kShift);
  return factors;
}

// The row fields of BackwardParams for the rows of a lane: two rows in each of kM blocks.
template <int kM>
struct RowTerms {
  float reference[kM][2];
  float weight[kM][2];
  float rowShift[kM][2];
};

// Turns scores into weights pS, and products dO vᵀ into gradients of scores dS. Subtracts the same reference as the
// forward kernel, in the same way, so that a row's weights add up to 1, however large its scores.
template <int kM, int kN>
__device__ inline void WeightsAndGradients(float (&scores)[kM][kN][4], float (&gradients)[kM][kN][4],
                                           const RowTerms<kM>& rows, const Factors& factors) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float base = -rows.reference[m][half];
      const float rowWeight = rows.weight[m][half];
      const float offset = -rows.rowShift[m][half] * factors.offset;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& weight = scores[m][n][2 * half + e];
          float& gradient = gradients[m][n][2 * half + e];
          weight = Exp2(fmaf(weight, factors.scale2, base)) * rowWeight;
          gradient = weight * fmaf(gradient, factors.gradient, offset);
        }
      }
    }
  }
}

// The same with dropout: a dropped pair loses its weight and its product, but not the rest of its gradient.
template <int kM, int kN>
__device__ inline void DroppedWeightsAndGradients(float (&scores)[kM][kN][4], float (&gradients)[kM][kN][4],
                                                  const RowTerms<kM>& rows, const Factors& factors,
                                                  const Dropout& dropout, int batchHead, int row0, int column0) {
  uint32_t kept[kM][kN];
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      kept[m][n] = KeptElements(dropout, batchHead, row0 + ElementRow(m, 0), column0 + ElementColumn(n, 0));
#pragma unroll
      for (int i = 0; i < 4; ++i) gradients[m][n][i] = kept[m][n] >> i & 1 ? gradients[m][n][i] : 0.f;
    }
  }
  WeightsAndGradients(scores, gradients, rows, factors);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[m][n][i] = kept[m][n] >> i & 1 ? scores[m][n][i] : 0.f;
    }
  }
}

}  // namespace flashmask::cuda
