// The backward kernels on Hopper for floats, each split into two 16-bit numbers.
#include "hopper_backward.cuh"
#include "hopper_backward_split.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperBackwardFloat32(const HopperBackwardHeads& heads, const BackwardParams& params,
                                        cudaStream_t stream) {
  const auto launch = heads.kD == 64   ? LaunchHopperBackwardTile<__half, HopperKeys, HopperBackwardTile<64, 2>>
                      : heads.kD == 96 ? LaunchHopperBackwardTile<__half, SplitKeys, SplitBackwardTile<96>>
                                       : LaunchHopperBackwardTile<__half, SplitKeys, SplitBackwardTile<128>>;
  return launch(params, stream);
}

}  // namespace flashmask::cuda
