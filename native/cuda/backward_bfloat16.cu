// The backward kernels on bfloat16.
#include "launch_backward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchBackwardBfloat16(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchBackward<__nv_bfloat16, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
