// The forward kernels on half precision.
#include "launch_forward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchForwardHalf(const Variant& variant, const ForwardParams& params, cudaStream_t stream) {
  return LaunchForward<__half, 1>(variant, params, stream);
}

}  // namespace flashmask::cuda
