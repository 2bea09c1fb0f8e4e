// Launchers of the kernels, one per number type. Each has its own source file, so that they compile in parallel.
#pragma once

#include "params.h"

namespace flashmask::cuda {

struct Variant {
  int kD;      // D and Dv rounded up to a compiled size: 64, 128 or 256
  bool large;  // which tiles (tiles.h)
};

using ForwardLauncher = cudaError_t(const Variant&, const ForwardParams&, cudaStream_t);
using BackwardLauncher = cudaError_t(const Variant&, const BackwardParams&, cudaStream_t);

ForwardLauncher LaunchForwardHalf, LaunchForwardBfloat16, LaunchForwardFloat32;
BackwardLauncher LaunchBackwardHalf, LaunchBackwardBfloat16, LaunchBackwardFloat32;
BackwardLauncher LaunchDqHalf, LaunchDqBfloat16, LaunchDqFloat32;

}  // namespace flashmask::cuda
