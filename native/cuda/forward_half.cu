// The forward kernels on half precision.
#include "forward.cuh"
#include "launch.cuh"

namespace flashmask::cuda {

cudaError_t LaunchForwardHalf(const Variant& variant, const ForwardParams& params, cudaStream_t stream) {
  return LaunchVariant<ForwardLaunch, __half, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
