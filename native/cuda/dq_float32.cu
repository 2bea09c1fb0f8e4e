// The dq kernels on floats, each split into two 16-bit numbers.
#include "dq.cuh"
#include "launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchDqFloat32(const Variant& variant, const BackwardParams& params, cudaStream_t stream) {
  return LaunchVariant<DqLaunch, __half, 2>(variant, params, stream);
}

}  // namespace flashmask::cuda
