// The backward kernels on Hopper for half precision, with more than 128 channels.
#include "hopper_backward_wide.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperBackwardWideHalf(const HopperBackwardHeads& heads, const BackwardParams& params,
                                         cudaStream_t stream) {
  return LaunchHopperBackwardWide<__half>(heads, params, stream);
}

}  // namespace flashmask::cuda
