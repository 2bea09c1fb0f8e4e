// Vectors of AVX2 with FMA. avx512.h explains the names.
#include <immintrin.h>

#include <cstdint>

namespace flashmask {
namespace cpu {
namespace FLASHMASK_ISA {
namespace {

using F = __m256;
using I = __m256i;
using M = __m256;

constexpr bool kFused = true;
constexpr int kLanes = 8;
// Rows of a micro-kernel: 4 x 3 accumulators, 3 vectors and a broadcast of 16 registers.
constexpr int kMicroRows = 4;

inline F Load(const float* from) { return _mm256_loadu_ps(from); }
inline void Store(float* to, F a) { _mm256_storeu_ps(to, a); }
inline F Set(float a) { return _mm256_set1_ps(a); }
inline F Zero() { return _mm256_setzero_ps(); }
inline F Add(F a, F b) { return _mm256_add_ps(a, b); }
inline F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F Div(F a, F b) { return _mm256_div_ps(a, b); }
inline F Max(F a, F b) { return _mm256_max_ps(a, b); }
inline M Less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline M Equal(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
inline F Select(M m, F a, F b) { return _mm256_blendv_ps(b, a, m); }
inline bool Any(M m) { return _mm256_movemask_ps(m) != 0; }
inline M Or(M a, M b) { return _mm256_or_ps(a, b); }
inline M AndNot(M a, M b) { return _mm256_andnot_ps(b, a); }

inline I LoadInts(const int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline I SetInt(int32_t a) { return _mm256_set1_epi32(a); }
inline I AddInts(I a, I b) { return _mm256_add_epi32(a, b); }
inline I Xor(I a, I b) { return _mm256_xor_si256(a, b); }
inline M LessInts(I a, I b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a)); }
inline M LessUnsigned(I a, I b) {
  const I sign = _mm256_set1_epi32(INT32_MIN);
  return LessInts(_mm256_xor_si256(a, sign), _mm256_xor_si256(b, sign));
}

inline F ScaleByPower(F p, F n, F biased) {
  (void)n;
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased), 23)));
}

inline void MulWide(I a, uint32_t b, I* high, I* low) {
  const I factor = _mm256_set1_epi32(static_cast<int32_t>(b));
  const I even = _mm256_mul_epu32(a, factor);
  const I odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
  *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

}  // namespace
}  // namespace FLASHMASK_ISA
}  // namespace cpu
}  // namespace flashmask
