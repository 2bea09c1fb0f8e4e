// The forward kernels on Hopper for half precision.
#include "hopper_launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperForwardHalf(int kD, const ForwardParams& params, cudaStream_t stream) {
  return LaunchHopper<__half>(kD, params, stream);
}

}  // namespace flashmask::cuda
