// The forward kernels on Hopper for floats, each split into two 16-bit numbers.
#include "hopper_forward.cuh"

namespace flashmask::cuda {

template <int kD, int kStages>
using SplitTile = HopperForwardTile<kD, kD, kStages, kStages, false, false, kHopperBlockQ, 2>;

cudaError_t LaunchHopperForwardFloat32(const HopperHeads& heads, const ForwardParams& params, cudaStream_t stream) {
  const auto launch = heads.D == 64   ? LaunchHopperForwardTile<__half, SplitTile<64, 4>>
                      : heads.D == 96 ? LaunchHopperForwardTile<__half, SplitTile<96, 2>>
                                      : LaunchHopperForwardTile<__half, SplitTile<128, 2>>;
  return launch(params, stream);
}

}  // namespace flashmask::cuda
