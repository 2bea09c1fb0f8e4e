// The softmax of Hopper's forward kernels. Weights are computed with the reference that a row has, and rounded. Their
// sum tells whether they are too large; then the reference is raised and they are computed again. So the largest score
// is looked for only where it is needed.
#pragma once

#include "forward.cuh"
#include "hopper_split.cuh"

namespace flashmask::cuda {

// Sums 2^(score · scale2 + base) over a lane's elements of its two rows, and rounds them to T as a left operand.
template <class T, int kParts, int kN>
__device__ inline void ComputeWeights(uint32_t (&weights)[kParts][kN / 2][4], float (&sums)[2],
                                      const float (&scores)[kN][4], const float (&bases)[2], float scale2) {
  float exponentials[kN][4];
  float parts[2][2] = {};  // independent sums, because additions have to wait for each other
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      exponentials[n][i] = Exp2(fmaf(scores[n][i], scale2, bases[i / 2]));
      parts[n % 2][i / 2] += exponentials[n][i];
    }
  }
  PackParts<T>(weights, exponentials, 1 << kProductShift<T, kParts>);
  sums[0] = parts[0][0] + parts[1][0];
  sums[1] = parts[0][1] + parts[1][1];
}

// Raises the references of rows of which a lane asks for it to their largest scores. Gives the factors of what has been
// summed up so far. Each row decides for itself, so that other rows have no influence on it.
template <int kShift, int kN>
__device__ inline void RaiseReferences(RowStats<1>& stats, float (&factors)[1][2], const float (&scores)[kN][4],
                                       float scale2, const bool (&asks)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t lanes = __ballot_sync(~0u, asks[half]);
    float x = -kInfinity;
#pragma unroll
    for (int n = 0; n < kN; ++n) x = fmaxf(x, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    // Rounds up, so that no weight exceeds 2^kShift, however large the score.
    const float largest = __fadd_ru(QuadMax(x) * scale2, -kShift);
    float& reference = stats.reference[0][half];
    const bool raise = (lanes >> (threadIdx.x % kWarp & ~3) & 0xf) != 0 && largest > reference;
    factors[0][half] = raise ? Exp2(reference - largest) : 1.f;
    reference = raise ? largest : reference;
    stats.sum[0][half] *= factors[0][half];
  }
}

// Whether scores of a warp may be so far above the references of their rows that these are raised: never false if they
// are. Bits of numbers that are not negative have the order of the numbers, and there is a maximum of three integers.
// Negative scores count as 0. NaN may hide other scores of its row, whose output is NaN then.
template <int kShift, int kN>
__device__ inline bool MayExceed(const RowStats<1>& stats, const float (&scores)[kN][4], float scale2) {
  bool exceeds = false;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int bits = 0;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      bits = __vimax3_s32(bits, __float_as_int(scores[n][2 * half]), __float_as_int(scores[n][2 * half + 1]));
    }
    exceeds |= __int_as_float(bits) * scale2 - stats.reference[0][half] > kShift + kSlack;
  }
  return __any_sync(~0u, exceeds);
}

// Turns scores into weights, 2^(score - reference), and adds them to the sums. Gives whether references of rows with
// weights were raised; then what was summed up before must be multiplied by the factors. `unseen`: whether a row of the
// warp has had no score but minus infinity.
template <class T, int kParts, int kN>
__device__ inline bool Weigh(RowStats<1>& stats, bool& unseen, float (&factors)[1][2],
                             uint32_t (&weights)[kParts][kN / 2][4], const float (&scores)[kN][4], float scale2) {
  constexpr int kShift = kReferenceShift<T, kParts>;
  constexpr float kUnit = 1 << kProductShift<T, kParts>;
  constexpr float kLimit = 1 << (kShift + static_cast<int>(kSlack) - 1);
  const float (&references)[2] = stats.reference[0];
  if (unseen) {
    const bool first[2] = {references[0] == -kInfinity, references[1] == -kInfinity};
    RaiseReferences<kShift>(stats, factors, scores, scale2, first);
    unseen = __any_sync(~0u, references[0] == -kInfinity || references[1] == -kInfinity);
  }
  bool raised = false;
#pragma unroll 1
  for (;;) {
    const float bases[2] = {-FiniteReference(references[0]), -FiniteReference(references[1])};
    float sums[2];
    ComputeWeights<T>(weights, sums, scores, bases, scale2);
    const bool exceeds[2] = {sums[0] > kLimit, sums[1] > kLimit};
    if (raised || !__any_sync(~0u, exceeds[0] || exceeds[1])) {
      stats.sum[0][0] += sums[0] * kUnit;
      stats.sum[0][1] += sums[1] * kUnit;
      return raised;
    }
    RaiseReferences<kShift>(stats, factors, scores, scale2, exceeds);
    raised = true;
  }
}

// Sets rounded weights to 0 where dropout drops them.
template <int kParts, int kSteps>
__device__ inline void DropWeights(uint32_t (&weights)[kParts][kSteps][4], const Dropout& dropout, int batchHead,
                                   int row0, int column0) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int column = column0 + ElementColumn(2 * k + side, 0);
      const uint32_t kept = KeptElements(dropout, batchHead, row0 + ElementRow(0, 0), column);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t low = kept >> (2 * half) & 1 ? 0xffffu : 0;
        const uint32_t high = kept >> (2 * half + 1) & 1 ? 0xffff0000u : 0;
#pragma unroll
        for (int part = 0; part < kParts; ++part) weights[part][k][2 * side + half] &= low | high;
      }
    }
  }
}

}  // namespace flashmask::cuda
