// What the kernels are told: sizes, strides and pointers, by value.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace flashmask::cuda {

// Key columns whose bounds the tile map reduces to smallest and largest.
constexpr int kMapColumns = 32;

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

// Largest magnitudes of float32 tensors, as the bits of a float, for each batch and key head (of q and dO: over the
// query heads that share it). They tell the powers of two by which tensors were divided before they were rounded to 16
// bits (exponents.cuh); null: by none.
using Magnitudes = uint32_t*;

struct Sizes {
  int B, H, Hkv, Sq, Sk;
};

// The mask as the tile map kernel leaves it.
struct Mask {
  const int4*
      columns;  // [maskB, Hm, Sk]: start and length of the lower interval of masked rows, then of the upper; null: none
  const int4*
      blocks;     // [maskB, Hm, mapBlocks, 2]: smallest and largest LTS, smallest and largest LTE; the same of UTS, UTE
  int mapBlocks;  // ceil(Sk / kMapColumns)
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
  Magnitudes qMagnitudes, kMagnitudes, vMagnitudes;
  Mask mask;
  const int2* ranges;  // [maskB, Hm, query blocks]: first live key block and the end of them; null: all
  Tensor32 out;
  float* lse;  // [B, H, Sq]
  float scale;
  Dropout dropout;
};

struct BackwardParams {
  Sizes sizes;
  Tensor16 q, k, v, dOut;
  Magnitudes qMagnitudes, kMagnitudes, vMagnitudes, dOutMagnitudes, deltaMagnitudes;
  Mask mask;
  const int2* ranges;  // of the deterministic dq kernel
  const float* lse2;   // [B, H, Sq], in powers of two; infinity for rows that see no key
  const float* delta;  // [B, H, Sq]: rowsum(dO ∘ O) - dLse
  Tensor32 dq, dk, dv;
  float scale;
  bool accumulateDq;
  Dropout dropout;
};

}  // namespace flashmask::cuda
