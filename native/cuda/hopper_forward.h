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

// The most channels of split floats.
constexpr int kHopperSplitChannels = 128;

// The kernel for head sizes D and Dv, which are at most 256, or kHopperSplitChannels if floats have two parts: the
// smallest that holds both.
constexpr HopperHeads HopperHeadsOf(int64_t D, int64_t Dv, int parts) {
  constexpr HopperHeads kWhole[] = {{64, 64, 128},   {96, 96, 128},  {128, 128, 128},
                                    {192, 128, 128}, {192, 192, 96}, {256, 256, 64}};
  constexpr HopperHeads kSplit[] = {{64, 64, 64}, {96, 96, 64}, {128, 128, 64}};
  const HopperHeads* kAll = parts == 1 ? kWhole : kSplit;
  int i = 0;
  while (D > kAll[i].D || Dv > kAll[i].Dv) ++i;
  return kAll[i];
}

using HopperForwardLauncher = cudaError_t(const HopperHeads&, const ForwardParams&, cudaStream_t);
HopperForwardLauncher LaunchHopperForwardHalf, LaunchHopperForwardBfloat16, LaunchHopperForwardFloat32;

}  // namespace flashmask::cuda
