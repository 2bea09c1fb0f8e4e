// The forward kernels on Hopper for half precision.
#include "hopper_forward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperForwardHalf(const HopperHeads& heads, const ForwardParams& params, cudaStream_t stream) {
  return LaunchHopperForward<__half>(heads, params, stream);
}

}  // namespace flashmask::cuda
