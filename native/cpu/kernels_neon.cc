#if defined(__aarch64__)
#define FLASHMASK_ISA neon
// In this order: the vectors first.
// clang-format off
#include "simd/neon.h"
#include "kernels.inc.h"
// clang-format on
#endif
