// Numbers of 16 bits, rounded to nearest even.
#include <cmath>
#include <limits>
#include <vector>

#include "machine.h"

namespace flashmask::emulator {
namespace {

float DecodeHalf(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  const float magnitude = exponent == 31  ? (fraction == 0 ? HUGE_VALF : std::numeric_limits<float>::quiet_NaN())
                          : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                          : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
  return bits >> 15 ? -magnitude : magnitude;
}

std::vector<float> DecodeHalves() {
  std::vector<float> floats(1 << 16);
  for (size_t bits = 0; bits < floats.size(); ++bits) floats[bits] = DecodeHalf(static_cast<uint16_t>(bits));
  return floats;
}

const std::vector<float> halves = DecodeHalves();

}  // namespace

float FloatOfHalf(uint16_t bits) { return halves[bits]; }

uint16_t HalfOf(float x) {
  constexpr uint32_t kLeastNormal = 113u << 23;  // 2^-14
  constexpr uint32_t kTooLarge = 143u << 23;     // 2^16
  uint32_t bits = static_cast<uint32_t>(BitsOf(x));
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return 0x7fff;
  if (bits >= kTooLarge) return sign | 0x7c00;
  // The unit of 0.5 is that of subnormal halves.
  if (bits < kLeastNormal) return sign | static_cast<uint16_t>(BitsOf(std::fabs(x) + 0.5f) - BitsOf(0.5f));
  bits += 0xfff + (bits >> 13 & 1) - (112u << 23);
  return sign | static_cast<uint16_t>(bits >> 13);
}

float FloatOfBfloat16(uint16_t bits) { return OfBits<float>(static_cast<uint64_t>(bits) << 16); }

uint16_t Bfloat16Of(float x) {
  const uint32_t bits = static_cast<uint32_t>(BitsOf(x));
  if (std::isnan(x)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace flashmask::emulator
