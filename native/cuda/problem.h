// What kernels take of the description of a call: sizes, tensors and factors.
#pragma once

#include <cmath>

#include "host.h"
#include "params.h"

namespace flashmask::cuda {

struct Strides {
  int64_t batch, row, head;
};

inline Strides StridesOf(bool bhsd, int64_t rows, int64_t heads, int64_t channels) {
  const int64_t batch = rows * heads * channels;
  return bhsd ? Strides{batch, channels, rows * channels} : Strides{batch, heads * channels, channels};
}

template <class Float>
TensorOf<Float> TensorIn(const Problem& p, Float* data, int64_t rows, int64_t heads, int64_t channels) {
  const Strides s = StridesOf(p.bhsd, rows, heads, channels);
  return {data, s.batch, s.row, s.head, static_cast<int>(channels)};
}

inline Tensor16 Tensor16In(const Problem& p, const void* data, int64_t rows, int64_t heads, int64_t channels) {
  const Strides s = StridesOf(p.bhsd, rows, heads, channels);
  return {data, s.batch, s.row, s.head, 0, static_cast<int>(channels)};
}

inline int PartsOf(const Problem& p) { return p.precision == Precision::kFloat32 ? 2 : 1; }
inline bool IsBfloat16(const Problem& p) { return p.precision == Precision::kBFloat16; }

inline Sizes SizesOf(const Problem& p) {
  return {static_cast<int>(p.B), static_cast<int>(p.H), static_cast<int>(p.Hkv), static_cast<int>(p.Sq),
          static_cast<int>(p.Sk)};
}

inline Dropout DropoutOf(const Problem& p) {
  const bool drops = p.dropoutThreshold != 0;
  return {p.dropoutThreshold, drops ? p.keepScale : 1.f, static_cast<uint32_t>(p.seed),
          static_cast<uint32_t>(p.seed >> 32)};
}

// A number as factor · 2^exponent with a factor from 1/2 to 1.
inline Scale ScaleOf(double x) {
  int exponent = 0;
  const double factor = std::frexp(x, &exponent);
  return {static_cast<float>(factor), exponent};
}

inline Scale ScoreScaleOf(const Problem& p) {
  constexpr double kLog2E = 1.4426950408889634;
  return ScaleOf(p.scale * kLog2E);
}

}  // namespace flashmask::cuda
