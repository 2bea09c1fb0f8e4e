#if defined(__aarch64__)
#define FLASHMASK_ISA neon
#include "simd/neon.h"
#include "kernels.inc.h"
#endif
