// Launchers of the kernels, one for each type of numbers. The source of each is a file of its own, so that they compile
// side by side.
#pragma once

#include "params.h"

namespace flashmask::cuda {

struct Variant {
  int kD;      // D and Dv rounded up to what is compiled: 64, 128 or 256
  bool large;  // which tiles (tiles.h)
};

using ForwardLauncher = cudaError_t(const Variant&, const ForwardParams&, cudaStream_t);
using BackwardLauncher = cudaError_t(const Variant&, const BackwardParams&, cudaStream_t);

ForwardLauncher LaunchForwardHalf, LaunchForwardBfloat16, LaunchForwardFloat32;
BackwardLauncher LaunchBackwardHalf, LaunchBackwardBfloat16, LaunchBackwardFloat32;
BackwardLauncher LaunchDqHalf, LaunchDqBfloat16, LaunchDqFloat32;

}  // namespace flashmask::cuda
