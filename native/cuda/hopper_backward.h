// Launchers of the backward kernels on Hopper, one per number type.
#pragma once

#include "params.h"

namespace flashmask::cuda {

constexpr int kHopperBackwardBlockK = 128;

using HopperBackwardLauncher = cudaError_t(int kD, const BackwardParams&, cudaStream_t);
HopperBackwardLauncher LaunchHopperBackwardHalf, LaunchHopperBackwardBfloat16;

}  // namespace flashmask::cuda
