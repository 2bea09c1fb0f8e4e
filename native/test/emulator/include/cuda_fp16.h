// Half precision on the emulator.
#pragma once

#include <cstdint>

#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
  explicit operator float() const { return flashmask::emulator::FloatOfHalf(bits); }
};
struct __half2 {
  __half x, y;
};
inline float2 __half22float2(__half2 a) { return {static_cast<float>(a.x), static_cast<float>(a.y)}; }
