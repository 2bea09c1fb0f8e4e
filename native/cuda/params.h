// What the kernels are told: sizes, strides and pointers, by value.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../constants.h"

namespace flashmask::cuda {

// A tensor of 16-bit numbers: strides in elements, channels next to each other.
struct Tensor16 {
  const void* data;
  int64_t batch;
  int64_t row;
  int64_t head;
  int64_t part;  // from the high parts to the low ones, where a number has two
  int channels;  // a multiple of 8
};

// A float32 tensor in the layout of the problem.
template <class Float>
struct TensorOf {
  Float* data;
  int64_t batch;
  int64_t row;
  int64_t head;
  int channels;
};
using Tensor32 = TensorOf<float>;
using ConstTensor32 = TensorOf<const float>;

// What is known of a float32 tensor's numbers, for each batch and key head (of q and dO: over the query heads that
// share it). Rows that no visible pair has do not count.
struct Facts {
  // The largest finite magnitude, as the bits of a float. It tells the power of two by which the tensor was divided
  // before it was rounded to 16 bits (exponents.cuh); null: by none.
  uint32_t* magnitudes;
  // 1 if a number is not finite, or so large that products of it may overflow (not_finite.cuh); null: none is.
  uint32_t* notFinite;
};

// A factor · 2^exponent, which may be beyond the floats' range together with another power of two.
struct Scale {
  float factor;
  int exponent;
};

struct Sizes {
  int B, H, Hkv, Sq, Sk;
};

// The mask as the kernels of bounds_map.cuh leave it.
struct Mask {
  // [maskB, Hm, Sk]: start and length of the lower interval of masked rows, then of the upper; null: none
  const int4* spans;
  // [maskB, Hm, mapBlocks, 2]: smallest and largest LTS, smallest and largest LTE; the same of UTS, UTE
  const int4* boundsMap;
  // [maskB, Hm, Sq]: 1 for rows that see a key; null as spans are
  const uint8_t* seeing;
  int mapBlocks;  // ceil(Sk / kMapBlock)
  int maskB, Hm;
  bool causal;
};

struct Dropout {
  uint32_t threshold;  // 0: none is dropped
  float keepScale;
  uint32_t key0, key1;
};

struct ForwardParams {
  Sizes sizes;
  Tensor16 q, k, v;
  Facts qFacts, kFacts, vFacts;
  Mask mask;
  const int2* ranges;  // [maskB, Hm, query blocks]: first live key block and the end of them; null: all
  Tensor32 out;
  float* lse;        // [B, H, Sq]
  float2* rowStats;  // [B, H, Sq]: the reference, in powers of two, and the sum of 2^(score - reference)
  // scale · log2(e), which makes scores in powers of two of products of q and k. The conversion of float32 tensors has
  // multiplied q by the factor, which then is 1 here: multiplications by a power of two alone are exact, however large
  // the scores.
  Scale scoreScale;
  Dropout dropout;
};

struct BackwardParams {
  Sizes sizes;
  Tensor16 q, k, v, dOut;
  Facts qFacts, kFacts, vFacts, dOutFacts, rowFacts;  // of rows: the magnitude is rowShift's
  Mask mask;
  const int2* ranges;  // of the deterministic dq kernel
  // [B, H, Sq] each. A row's weights are 2^(score - reference) · weight / 2^kBackwardWeightShift; all three are 0 for
  // rows that see no key.
  const float* reference;
  const float* weight;
  const float* rowShift;  // delta - dLse, with delta = rowsum(dO ∘ O)
  Tensor32 dq, dk, dv;
  Scale scale;
  Scale scoreScale;
  bool accumulateDq;
  Dropout dropout;
};

}  // namespace flashmask::cuda
