// The forward kernels on Hopper for half precision.
#include "hopper_forward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperForwardHalf(int kD, const ForwardParams& params, cudaStream_t stream) {
  return LaunchHopperForward<__half>(kD, params, stream);
}

}  // namespace flashmask::cuda
