// The backward kernels on Hopper for bfloat16.
#include "hopper_backward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperBackwardBfloat16(const HopperBackwardHeads& heads, const BackwardParams& params,
                                         cudaStream_t stream) {
  return LaunchHopperBackward<__nv_bfloat16>(heads, params, stream);
}

}  // namespace flashmask::cuda
