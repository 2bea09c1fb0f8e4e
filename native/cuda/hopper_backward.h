// Launchers of the backward kernels on Hopper, and the head sizes that they are compiled for.
#pragma once

#include <algorithm>

#include "params.h"

namespace flashmask::cuda {

struct HopperBackwardHeads {
  int kD, kDv;
};

// The head sizes, rounded up to those of a kernel. Missing channels are zeros.
inline HopperBackwardHeads HopperBackwardHeadsOf(int64_t D, int64_t Dv) {
  for (const HopperBackwardHeads heads : {HopperBackwardHeads{64, 64}, {96, 96}, {128, 128}, {192, 128}, {192, 192}}) {
    if (D <= heads.kD && Dv <= heads.kDv) return heads;
  }
  return {256, 256};
}

// Whether the kernel of hopper_backward_wide.cuh computes these heads.
inline bool IsWide(const HopperBackwardHeads& heads) { return heads.kD > 128; }

using HopperBackwardLauncher = cudaError_t(const HopperBackwardHeads&, const BackwardParams&, cudaStream_t);
HopperBackwardLauncher LaunchHopperBackwardHalf, LaunchHopperBackwardBfloat16, LaunchHopperBackwardFloat32;
HopperBackwardLauncher LaunchHopperBackwardWideHalf, LaunchHopperBackwardWideBfloat16;

}  // namespace flashmask::cuda
