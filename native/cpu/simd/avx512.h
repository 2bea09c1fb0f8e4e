// Vectors of AVX-512 (F, VL, BW, DQ). Every file in this folder defines the same names.
#include <immintrin.h>

#include <cstdint>

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own headers use uninitialised vectors on purpose and then warn about them (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace flashmask {
namespace cpu {
namespace FLASHMASK_ISA {
namespace {

using F = __m512;     // floats
using I = __m512i;    // 32-bit integers
using M = __mmask16;  // one truth value per lane

constexpr bool kFused = true;  // whether Fma rounds once
constexpr int kLanes = 16;
// Rows of a micro-kernel: 8 x 3 accumulators, 3 vectors and a broadcast of 32 registers.
constexpr int kMicroRows = 8;

inline F Load(const float* from) { return _mm512_loadu_ps(from); }
inline void Store(float* to, F a) { _mm512_storeu_ps(to, a); }
inline F Set(float a) { return _mm512_set1_ps(a); }
inline F Zero() { return _mm512_setzero_ps(); }
inline F Add(F a, F b) { return _mm512_add_ps(a, b); }
inline F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // a b + c
inline F Div(F a, F b) { return _mm512_div_ps(a, b); }
inline F Max(F a, F b) { return _mm512_max_ps(a, b); }  // a > b ? a : b, so b if one is NaN
inline M Less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline M Equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline F Select(M m, F a, F b) { return _mm512_mask_mov_ps(b, m, a); }  // m ? a : b
inline bool Any(M m) { return m != 0; }
inline M Or(M a, M b) { return static_cast<M>(a | b); }
inline M AndNot(M a, M b) { return static_cast<M>(a & ~b); }  // a and not b

inline I LoadInts(const int32_t* from) { return _mm512_loadu_si512(from); }
inline I SetInt(int32_t a) { return _mm512_set1_epi32(a); }
inline I AddInts(I a, I b) { return _mm512_add_epi32(a, b); }
inline I Xor(I a, I b) { return _mm512_xor_si512(a, b); }
inline M LessInts(I a, I b) { return _mm512_cmplt_epi32_mask(a, b); }
inline M LessUnsigned(I a, I b) { return _mm512_cmplt_epu32_mask(a, b); }

// p 2^n for a whole n, where `biased` is n + 127 in the low bits of its mantissa.
inline F ScaleByPower(F p, F n, F biased) {
  (void)biased;
  return _mm512_scalef_ps(p, n);
}

// High and low halves of the 64-bit products of unsigned integers.
inline void MulWide(I a, uint32_t b, I* high, I* low) {
  const I factor = _mm512_set1_epi32(static_cast<int32_t>(b));
  const I even = _mm512_mul_epu32(a, factor);
  const I odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
  *low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  *high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}

}  // namespace
}  // namespace FLASHMASK_ISA
}  // namespace cpu
}  // namespace flashmask
