// The backward kernels on floats split into two halves.
#include "launch_backward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchBackwardSplit(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchBackward<__half, 2>(variant, params, stream);
}

}  // namespace flashmask::cuda
