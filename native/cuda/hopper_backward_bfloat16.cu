// The backward kernels on Hopper for bfloat16.
#include "hopper_backward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperBackwardBfloat16(int kD, const BackwardParams& params, cudaStream_t stream) {
  return LaunchHopperBackward<__nv_bfloat16>(kD, params, stream);
}

}  // namespace flashmask::cuda
