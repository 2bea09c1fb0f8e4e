// The parameters of the kernels, passed by value: sizes, strides and pointers.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../constants.h"

namespace flashmask::cuda {

// A tensor of 16-bit numbers. Strides are in elements; channels are contiguous.
struct Tensor16 {
  const void* data;
  int64_t batch;
  int64_t row;
  int64_t head;
  int64_t part;  // from the high to the low 16-bit numbers, if a number has two
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

// Facts about a float32 tensor's numbers, for each batch and key head; for q and dO over the query heads of the key
// head. Rows that no visible pair uses do not count.
struct Facts {
  // The largest finite magnitude, as the bits of a float. It determines the power of two that divided the tensor before
  // it was rounded to 16 bits (exponents.cuh). Null: it was not divided.
  uint32_t* magnitudes;
  // 1 if a number is not finite, or so large that its products may overflow (not_finite.cuh). Null: there are none.
  uint32_t* notFinite;
};

// A factor · 2^exponent. Multiplied by another power of two it may exceed the range of floats.
struct Scale {
  float factor;
  int exponent;
};

struct Sizes {
  int B, H, Hkv, Sq, Sk;
};

// The mask, computed by the kernels of bounds_map.cuh and plan.cuh.
struct Mask {
  // [maskB, Hm, Sk]: start and length of the lower interval of masked rows, then of the upper; null: none
  const int4* spans;
  // [maskB, Hm, mapBlocks, 2]: smallest and largest LTS, smallest and largest LTE; the same of UTS, UTE
  const int4* boundsMap;
  // [maskB, Hm, Sq]: 1 for rows that see a key; null if spans is null
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
  int* counter;        // 0: thread blocks that stay take the next row block by it
  Tensor32 out;
  float* lse;        // [B, H, Sq]
  float2* rowStats;  // [B, H, Sq]: the reference, in powers of two, and the sum of 2^(score - reference)
  // scale · log2(e): turns products of q and k into scores in powers of two. For float32 tensors the conversion has
  // multiplied q by the factor, so the factor is 1 here: multiplying by a power of two is exact, however large the
  // scores.
  Scale scoreScale;
  Dropout dropout;
};

constexpr int kRowsOfMark = 32;

struct BackwardParams {
  Sizes sizes;
  Tensor16 q, k, v, dOut;
  Facts qFacts, kFacts, vFacts, dOutFacts, rowFacts;  // for rows, the magnitude is that of rowShift
  Mask mask;
  const int2* ranges;  // for the deterministic dq kernel
  int* counter;        // 0: thread blocks that stay take the next key block by it
  // [B, H, rowsOfHead] each, with zeros from Sq on. A row's weights are 2^(score - reference) · weight /
  // 2^kBackwardWeightShift; all three are 0 for rows that see no key.
  int rowsOfHead;
  const float* reference;
  const float* weight;
  const float* rowShift;  // delta - dLse, with delta = rowsum(dO ∘ O)
  Tensor32 dq, dk, dv;
  Scale scale;
  Scale scoreScale;
  bool accumulateDq;
  bool onlyNotFinite;  // leaves out key heads without numbers that are not finite
  Dropout dropout;
  // On Hopper, the key block that has last added to dq of kRowsOfMark rows of a head, and 1; 0: none has. Wide heads
  // have one for each half of the channels of 2 kRowsOfMark rows. Null: key blocks add in any order.
  int* order;
};

}  // namespace flashmask::cuda
