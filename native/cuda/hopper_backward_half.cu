// The backward kernels on Hopper for half precision.
#include "hopper_backward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperBackwardHalf(int kD, const BackwardParams& params, cudaStream_t stream) {
  return LaunchHopperBackward<__half>(kD, params, stream);
}

}  // namespace flashmask::cuda
