#if defined(__aarch64__)
#define FLASHMASK_ISA neon
// The order matters: the vectors first.
// clang-format off
#include "simd/neon.h"
#include "kernels.inc.h"
// clang-format on
#endif
