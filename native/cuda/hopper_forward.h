// Launchers of the forward kernels on Hopper, one per number type, and the head sizes that have kernels.
#pragma once

#include "params.h"

namespace flashmask::cuda {

// The queries of a row block of these kernels.
constexpr int kHopperBlockQ = 128;

// The head sizes of a kernel, and the keys of its tiles.
struct HopperHeads {
  int D, Dv, blockK;
};

// The kernel for head sizes D and Dv, which are at most 256: the smallest that holds both.
constexpr HopperHeads HopperHeadsOf(int64_t D, int64_t Dv) {
  constexpr HopperHeads kAll[] = {{64, 64, 128},   {96, 96, 128},  {128, 128, 128},
                                  {192, 128, 128}, {192, 192, 96}, {256, 256, 64}};
  int i = 0;
  while (D > kAll[i].D || Dv > kAll[i].Dv) ++i;
  return kAll[i];
}

using HopperForwardLauncher = cudaError_t(const HopperHeads&, const ForwardParams&, cudaStream_t);
HopperForwardLauncher LaunchHopperForwardHalf, LaunchHopperForwardBfloat16;

}  // namespace flashmask::cuda
