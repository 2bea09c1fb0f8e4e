// The kernels that each instruction set provides, compiled from kernels.inc.h.
#pragma once

#include "../layers.h"
#include "plan.h"

namespace flashmask {
namespace cpu {

struct Kernels {
  const char* name;
  void (*forward)(const ForwardPlan& plan, int64_t item, int thread);
  // Adds up the partial results of the panels of one item, if the keys are split.
  void (*combine)(const ForwardPlan& plan, int64_t item, int thread);
  // Row shifts of the rows of one panel.
  void (*rowShift)(const BackwardPlan& plan, int64_t item, int thread);
  void (*backward)(const BackwardPlan& plan, int64_t item, int thread);
  // Adds up the partial dq of one panel.
  void (*addParts)(const BackwardPlan& plan, int64_t item, int thread);

  // The layers around the attention: rows, columns (gammaGrad) or elements (gated units, adamw) from `begin` to `end`.
  void (*rmsNorm)(const RmsNorm& layer, int64_t begin, int64_t end);
  void (*rmsNormGrad)(const RmsNormGrad& layer, int64_t begin, int64_t end);
  void (*rmsNormGammaGrad)(const RmsNormGammaGrad& layer, int64_t begin, int64_t end);
  void (*rotation)(const Rotation& layer, int64_t begin, int64_t end);
  void (*gatedUnit)(const GatedUnit& layer, int64_t begin, int64_t end);
  void (*gatedUnitGrad)(const GatedUnitGrad& layer, int64_t begin, int64_t end);
  void (*adamw)(const AdamW& layer, int64_t begin, int64_t end);
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

// The kernels of the best instruction set of this machine, or of FLASHMASK_CPU if the machine supports it.
const Kernels& SelectedKernels();

}  // namespace cpu
}  // namespace flashmask
