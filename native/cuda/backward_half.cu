// The backward kernels on half precision.
#include "launch_backward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchBackwardHalf(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchBackward<__half, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
