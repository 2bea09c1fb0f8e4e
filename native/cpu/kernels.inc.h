// The kernels of one instruction set. Each file kernels_<set>.cc defines FLASHMASK_ISA and includes its vectors
// (simd/<set>.h), then this file. All code is in an anonymous namespace and calls no inline function of the standard
// library: the linker keeps only one of several equal inline functions, and older machines might not be able to run
// that one.
#include <math.h>

#include "../philox.h"
#include "kernels.h"

namespace flashmask {
namespace cpu {
namespace FLASHMASK_ISA {
namespace {

// The order matters: each file uses those before it.
// clang-format off
#include "exp.inc.h"
#include "transpose.inc.h"
#include "product.inc.h"
#include "mask.inc.h"
#include "not_finite.inc.h"
#include "dropout.inc.h"
#include "forward_panel.inc.h"
#include "few_rows.inc.h"
#include "forward.inc.h"
#include "backward.inc.h"
#include "layers.inc.h"
// clang-format on

}  // namespace

#define FLASHMASK_TEXT(x) #x
#define FLASHMASK_NAME(x) FLASHMASK_TEXT(x)

const Kernels kKernels = {FLASHMASK_NAME(FLASHMASK_ISA),
                          RunForward,
                          RunCombine,
                          RunRowShift,
                          RunBackward,
                          RunAddParts,
                          RunRmsNorm,
                          RunRmsNormGrad,
                          RunRmsNormGammaGrad,
                          RunRotation,
                          RunGatedUnit,
                          RunGatedUnitGrad,
                          RunAdamW};

}  // namespace FLASHMASK_ISA
}  // namespace cpu
}  // namespace flashmask
