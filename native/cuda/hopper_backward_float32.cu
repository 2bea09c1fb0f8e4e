// The backward kernel on Hopper for floats, each split into two 16-bit numbers.
#include "hopper_backward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperBackwardFloat32(const HopperBackwardHeads& heads, const BackwardParams& params,
                                        cudaStream_t stream) {
  return LaunchHopperBackwardTile<__half, HopperKeys, HopperBackwardTile<kHopperBackwardSplitChannels, 2>>(params,
                                                                                                           stream);
}

}  // namespace flashmask::cuda
