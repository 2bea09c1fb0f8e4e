// The dq kernels on bfloat16.
#include "dq.cuh"
#include "launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchDqBfloat16(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchVariant<DqLaunch, __nv_bfloat16, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
