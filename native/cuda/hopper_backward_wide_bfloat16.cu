// The backward kernels on Hopper for bfloat16, with more than 128 channels.
#include "hopper_backward_wide.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperBackwardWideBfloat16(const HopperBackwardHeads& heads, const BackwardParams& params,
                                             cudaStream_t stream) {
  return LaunchHopperBackwardWide<__nv_bfloat16>(heads, params, stream);
}

}  // namespace flashmask::cuda
