// Vectors of NEON on 64-bit ARM. avx512.h explains the names.
#include <arm_neon.h>

#include <cstdint>

namespace flashmask {
namespace cpu {
namespace FLASHMASK_ISA {
namespace {

using F = float32x4_t;
using I = int32x4_t;
using M = uint32x4_t;

constexpr bool kFused = true;
constexpr int kLanes = 4;
// Rows of a micro-kernel: 8 x 3 accumulators, 3 vectors and a broadcast of 32 registers.
constexpr int kMicroRows = 8;

inline F Load(const float* from) { return vld1q_f32(from); }
inline void Store(float* to, F a) { vst1q_f32(to, a); }
inline F Set(float a) { return vdupq_n_f32(a); }
inline F Zero() { return vdupq_n_f32(0.0f); }
inline F Add(F a, F b) { return vaddq_f32(a, b); }
inline F Sub(F a, F b) { return vsubq_f32(a, b); }
inline F Mul(F a, F b) { return vmulq_f32(a, b); }
inline F Fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
inline F Div(F a, F b) { return vdivq_f32(a, b); }
inline M Less(F a, F b) { return vcltq_f32(a, b); }
inline M Equal(F a, F b) { return vceqq_f32(a, b); }
inline F Select(M m, F a, F b) { return vbslq_f32(m, a, b); }
inline F Max(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline bool Any(M m) { return vmaxvq_u32(m) != 0; }
inline M Or(M a, M b) { return vorrq_u32(a, b); }
inline M AndNot(M a, M b) { return vbicq_u32(a, b); }

inline I LoadInts(const int32_t* from) { return vld1q_s32(from); }
inline I SetInt(int32_t a) { return vdupq_n_s32(a); }
inline I AddInts(I a, I b) { return vaddq_s32(a, b); }
inline I Xor(I a, I b) { return veorq_s32(a, b); }
inline M LessInts(I a, I b) { return vcltq_s32(a, b); }
inline M LessUnsigned(I a, I b) { return vcltq_u32(vreinterpretq_u32_s32(a), vreinterpretq_u32_s32(b)); }

inline F ScaleByPower(F p, F n, F biased) {
  (void)n;
  return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(vreinterpretq_s32_f32(biased), 23)));
}

inline void MulWide(I a, uint32_t b, I* high, I* low) {
  const uint32x4_t x = vreinterpretq_u32_s32(a);
  const uint32x4_t first = vreinterpretq_u32_u64(vmull_n_u32(vget_low_u32(x), b));
  const uint32x4_t second = vreinterpretq_u32_u64(vmull_n_u32(vget_high_u32(x), b));
  *low = vreinterpretq_s32_u32(vuzp1q_u32(first, second));
  *high = vreinterpretq_s32_u32(vuzp2q_u32(first, second));
}

}  // namespace
}  // namespace FLASHMASK_ISA
}  // namespace cpu
}  // namespace flashmask
