// Compiled with the flags of this instruction set (scripts/build_native.mjs); runs only where the machine has it.
#if defined(__x86_64__)
#define FLASHMASK_ISA avx512
// The order matters: the vectors first.
// clang-format off
#include "simd/avx512.h"
#include "kernels.inc.h"
// clang-format on
#endif
