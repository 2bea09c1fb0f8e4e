// Calls of the CUDA kernels on the emulator, for the programs in this folder.
#pragma once

#include <algorithm>

#include "calls.h"
#include "emulator/machine.h"

namespace {

namespace emulator = flashmask::emulator;
using flashmask::Precision;

struct EmulatedKernels {
  size_t ForwardScratchBytes(const Problem& p) { return flashmask::cuda::ForwardScratchBytes(p); }
  size_t BackwardScratchBytes(const Problem& p) { return flashmask::cuda::BackwardScratchBytes(p); }
  void Forward(const Problem& p, const ForwardTensors& t, void* scratch) {
    ok = flashmask::cuda::Forward(p, t, scratch, nullptr).name == nullptr;
  }
  void Backward(const Problem& p, const BackwardTensors& t, void* scratch) {
    ok = ok && flashmask::cuda::Backward(p, t, scratch, nullptr).name == nullptr;
  }
  bool& ok;
};

bool Run(Call* c, int) {
  bool ok = true;
  const bool intact = RunBy(EmulatedKernels{ok}, c);
  return ok && intact;
}

// The GPUs that kernels differ for.
constexpr emulator::Device kHopper = {9, 3, 232448};
constexpr emulator::Device kBeforeHopper = {8, 3, 101376};

}  // namespace
