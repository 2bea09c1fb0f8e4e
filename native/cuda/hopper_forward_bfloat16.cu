// The forward kernels on Hopper for bfloat16.
#include "hopper_forward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchHopperForwardBfloat16(const HopperHeads& heads, const ForwardParams& params, cudaStream_t stream) {
  return LaunchHopperForward<__nv_bfloat16>(heads, params, stream);
}

}  // namespace flashmask::cuda
