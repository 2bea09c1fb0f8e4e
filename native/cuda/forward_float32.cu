// The forward kernels on floats, each split into two 16-bit numbers.
#include "forward.cuh"
#include "launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchForwardFloat32(const Variant& variant, const ForwardParams& params, cudaStream_t stream) {
  return LaunchVariant<ForwardLaunch, __half, 2>(variant, params, stream);
}

}  // namespace flashmask::cuda
