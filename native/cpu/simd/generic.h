// Vectors of 16 bytes in the compiler's own notation (GCC, Clang), for all other machines. avx512.h explains the names.

namespace flashmask {
namespace cpu {
namespace FLASHMASK_ISA {
namespace {

using F = float __attribute__((vector_size(16)));
using I = int32_t __attribute__((vector_size(16)));
using U = uint32_t __attribute__((vector_size(16)));
using M = I;  // all bits of a lane

constexpr bool kFused = false;
constexpr int kLanes = 4;
constexpr int kMicroRows = 4;

inline F Load(const float* from) {
  F a;
  __builtin_memcpy(&a, from, sizeof a);
  return a;
}
inline void Store(float* to, F a) { __builtin_memcpy(to, &a, sizeof a); }
inline F Set(float a) { return F{a, a, a, a}; }
inline F Zero() { return Set(0.0f); }
inline F Add(F a, F b) { return a + b; }
inline F Sub(F a, F b) { return a - b; }
inline F Mul(F a, F b) { return a * b; }
inline F Fma(F a, F b, F c) { return a * b + c; }
inline F Div(F a, F b) { return a / b; }
inline M Less(F a, F b) { return a < b; }
inline M Equal(F a, F b) { return a == b; }
inline F Select(M m, F a, F b) {
  return reinterpret_cast<F>((m & reinterpret_cast<I>(a)) | (~m & reinterpret_cast<I>(b)));
}
inline F Max(F a, F b) { return Select(b < a, a, b); }
inline bool Any(M m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
inline M Or(M a, M b) { return a | b; }
inline M AndNot(M a, M b) { return a & ~b; }

inline I LoadInts(const int32_t* from) {
  I a;
  __builtin_memcpy(&a, from, sizeof a);
  return a;
}
inline I SetInt(int32_t a) { return I{a, a, a, a}; }
inline I AddInts(I a, I b) { return reinterpret_cast<I>(reinterpret_cast<U>(a) + reinterpret_cast<U>(b)); }
inline I Xor(I a, I b) { return a ^ b; }
inline M LessInts(I a, I b) { return a < b; }
inline M LessUnsigned(I a, I b) { return reinterpret_cast<M>(reinterpret_cast<U>(a) < reinterpret_cast<U>(b)); }

inline F ScaleByPower(F p, F n, F biased) {
  (void)n;
  return p * reinterpret_cast<F>(reinterpret_cast<U>(biased) << 23);
}

inline void MulWide(I a, uint32_t b, I* high, I* low) {
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t product = static_cast<uint64_t>(static_cast<uint32_t>(a[i])) * b;
    (*high)[i] = static_cast<int32_t>(product >> 32);
    (*low)[i] = static_cast<int32_t>(product);
  }
}

}  // namespace
}  // namespace FLASHMASK_ISA
}  // namespace cpu
}  // namespace flashmask
