// What each instruction set provides: the same kernels, compiled from kernels.inc.h.
#pragma once

#include "plan.h"

namespace flashmask {
namespace cpu {

struct Kernels {
  const char* name;
  void (*forward)(const ForwardPlan& plan, int64_t item, int thread);
  // Adds up the parts of the panels of one item, where the keys were split.
  void (*combine)(const ForwardPlan& plan, int64_t item, int thread);
  // Row shifts of the rows of one panel.
  void (*rowShift)(const BackwardPlan& plan, int64_t item, int thread);
  void (*backward)(const BackwardPlan& plan, int64_t item, int thread);
  // Adds up the parts of dq of one panel.
  void (*addParts)(const BackwardPlan& plan, int64_t item, int thread);
};

namespace avx512 {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace neon {
extern const Kernels kKernels;
}
namespace generic {
extern const Kernels kKernels;
}

// Those of the best instruction set of this machine, or of FLASHMASK_CPU if the machine has it.
const Kernels& SelectedKernels();

}  // namespace cpu
}  // namespace flashmask
