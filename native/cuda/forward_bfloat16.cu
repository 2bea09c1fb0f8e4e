// The forward kernels on bfloat16.
#include "forward.cuh"
#include "launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchForwardBfloat16(const Variant& variant, const ForwardParams& params, cudaStream_t stream) {
  return LaunchVariant<ForwardLaunch, __nv_bfloat16, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
