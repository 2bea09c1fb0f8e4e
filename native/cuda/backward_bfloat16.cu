// The backward kernels on bfloat16.
#include "backward.cuh"
#include "launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchBackwardBfloat16(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchVariant<BackwardLaunch, __nv_bfloat16, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
