// The dq kernels on half precision.
#include "dq.cuh"
#include "launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchDqHalf(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchVariant<DqLaunch, __half, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
