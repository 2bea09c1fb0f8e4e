// The dq kernels on half precision.
#include "launch_dq.cuh"

namespace flashmask::cuda {

cudaError_t LaunchDqHalf(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchDq<__half, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
