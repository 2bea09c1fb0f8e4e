// Launchers of the forward kernels on Hopper, one per number type.
#pragma once

#include "params.h"

namespace flashmask::cuda {

// The queries of a row block of these kernels, and the keys of a tile.
constexpr int kHopperBlockQ = 128;
constexpr int kHopperBlockK = 128;

using HopperForwardLauncher = cudaError_t(int kD, const ForwardParams&, cudaStream_t);
HopperForwardLauncher LaunchHopperForwardHalf, LaunchHopperForwardBfloat16;

}  // namespace flashmask::cuda
