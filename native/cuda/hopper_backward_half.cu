// The backward kernels on Hopper for half precision.
#include "hopper_backward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperBackwardHalf(const HopperBackwardHeads& heads, const BackwardParams& params,
                                     cudaStream_t stream) {
  return LaunchHopperBackward<__half>(heads, params, stream);
}

}  // namespace flashmask::cuda
