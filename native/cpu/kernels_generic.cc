// Runs on every machine.
#include <cstdint>

#define FLASHMASK_ISA generic
#include "simd/generic.h"
#include "kernels.inc.h"
