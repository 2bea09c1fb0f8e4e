// Compiled with the flags of this instruction set (scripts/build_native.mjs); runs only where the machine has it.
#if defined(__x86_64__)
#define FLASHMASK_ISA avx2
#include "simd/avx2.h"
#include "kernels.inc.h"
#endif
