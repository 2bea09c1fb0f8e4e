// The dq kernels on floats split into two halves.
#include "launch_dq.cuh"

namespace flashmask::cuda {

cudaError_t LaunchDqSplit(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchDq<__half, 2>(variant, params, stream);
}

}  // namespace flashmask::cuda
