// The forward kernels on floats split into two halves.
#include "launch_forward.cuh"

namespace flashmask::cuda {

cudaError_t LaunchForwardSplit(const Variant& variant, const ForwardParams& params, cudaStream_t stream) {
  return LaunchForward<__half, 2>(variant, params, stream);
}

}  // namespace flashmask::cuda
