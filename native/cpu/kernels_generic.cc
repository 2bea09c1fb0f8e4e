// Runs on every machine.
#include <cstdint>

#define FLASHMASK_ISA generic
// The order matters: the vectors first.
// clang-format off
#include "simd/generic.h"
#include "kernels.inc.h"
// clang-format on
